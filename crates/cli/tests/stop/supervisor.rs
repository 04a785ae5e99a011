use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::kit::{Service, data_dir, turn};

/// The next message that has `part`; those before it are `passed` over.
fn message(socket: &UnixDatagram, part: &str, passed: &mut Vec<String>) -> String {
    loop {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        let message = String::from_utf8_lossy(buffer.get(..length).unwrap()).into_owned();
        if message.contains(part) {
            return message;
        }
        passed.push(message);
    }
}

#[test]
fn a_service_manager_is_told_of_readiness_life_and_the_stop_in_this_order() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let path = data.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "150000")];
    let mut service = Service::start_with(data.path(), &[], &env);

    let mut before = Vec::new();
    let ready = message(&socket, "READY=1", &mut before);
    assert!(ready.contains(&format!("STATUS=serving on {}", service.address)), "{ready}");
    let (kept, before): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|message| message.starts_with("FDSTORE=1"));
    assert_eq!(kept, ["FDSTORE=1\nFDNAME=cofferdam-api\nFDPOLL=0"], "before it is ready");
    assert!(before.iter().all(|message| message.contains("EXTEND_TIMEOUT_USEC=")), "{before:?}");
    let alive = message(&socket, "WATCHDOG=1", &mut Vec::new());
    assert!(!alive.contains("EXTEND_TIMEOUT_USEC"), "once it serves it has all the time: {alive}");

    let id = service.create();
    message(&socket, "STATUS=serving", &mut Vec::new());
    service.signal(Signal::TERM);
    let stopping = message(&socket, "STOPPING=1", &mut Vec::new());
    assert!(stopping.contains("STATUS=stopping, 1 sandboxes left"), "{stopping}");
    // However long the sandbox lives, the manager hears that the stop goes on.
    for _ in 0..3 {
        let alive = message(&socket, "WATCHDOG=1", &mut Vec::new());
        assert!(alive.contains("EXTEND_TIMEOUT_USEC="), "{alive}");
    }
    service.kill(&id);
    assert_eq!(service.end().0, 0);
}
