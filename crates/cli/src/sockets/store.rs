//! Sockets that the service manager keeps over a restart: systemd's file descriptor store
//! (sd_notify(3) `FDSTORE=1`, sd_listen_fds(3)). Sockets of a `.socket` unit arrive the same way.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;

use rustix::net::SocketAddrUnix;

use super::{API, NODE, Passed, Sockets, passing};

/// Takes what the manager passed to this process, and nothing that was meant for a parent.
///
/// To be called once, before other descriptors are opened or programs started.
///
/// # Errors
/// The descriptors that the environment names are not there.
pub(crate) fn take(env: &[(OsString, OsString)]) -> std::io::Result<Passed> {
    let value = |name: &str| {
        let found = env.iter().find(|(key, _)| key == name)?;
        found.1.to_str()
    };
    let number = |name: &str| value(name)?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Passed::default());
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    let fds = host::inherited::take(count)?;
    let names = value("LISTEN_FDNAMES").unwrap_or_default().split(':');
    // A unit that names nothing has one socket, the one for clients.
    let names = names.map(|name| match name {
        API | NODE => name.to_owned(),
        _ => API.to_owned(),
    });
    Ok(Passed(names.chain(std::iter::repeat(API.to_owned())).zip(fds).collect()))
}

/// Has the manager that reads at `address` keep the sockets until the service has started again;
/// `notify` is a datagram socket.
///
/// # Errors
/// The manager is not there or does not read. It then keeps nothing, and a client that connects
/// during a restart is refused.
pub(crate) fn keep(
    sockets: &Sockets,
    notify: BorrowedFd<'_>,
    address: &SocketAddrUnix,
) -> std::io::Result<()> {
    for (name, fd) in sockets.named() {
        // Not watched: a listening socket never hangs up.
        let message = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
        passing::send(notify, Some(address), message.as_bytes(), &[fd])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use rustix::net::SocketAddrUnix;

    use super::super::{API, NODE, Passed, Sockets, passing};

    #[test]
    fn the_manager_is_given_every_socket_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let listen = ([127, 0, 0, 1], 0).into();
        let sockets = Sockets::open(listen, Some(listen), Passed::default()).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        super::keep(&sockets, UnixDatagram::unbound().unwrap().as_fd(), &address).unwrap();
        let given = [(API, sockets.api.local_addr()), (NODE, sockets.node.unwrap().local_addr())];
        for (name, address) in given {
            let (bytes, fds) = passing::receive(manager.as_fd(), 256).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(text, format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"));
            let [fd] = <[_; 1]>::try_from(fds).unwrap();
            let kept = std::net::TcpListener::from(fd);
            assert_eq!(kept.local_addr().unwrap(), address.unwrap());
        }
    }

    #[test]
    fn sockets_that_were_meant_for_a_parent_are_left_alone() {
        let env = |pid: u32| [("LISTEN_PID", pid.to_string()), ("LISTEN_FDS", "1".to_owned())];
        let others = env(1).map(|(name, value)| (name.into(), value.into()));
        assert!(super::take(&others).unwrap().0.is_empty());
        assert!(super::take(&[]).unwrap().0.is_empty());
    }
}
