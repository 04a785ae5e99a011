//! An internet with names, servers that say who they are, and a SOCKS5 proxy.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread;

use parking_lot::Mutex;
use testkit::wait_for;

use super::LIMIT;
use crate::guest::{Output, run};
use crate::network::{ELSEWHERE, INTERNET, Internet, PRIVATE};

/// The address of every name; of those that are not here there is none.
const NAMES: [(&str, Ipv4Addr); 5] = [
    ("allowed.example", INTERNET),
    ("a.below.example", ELSEWHERE),
    ("other.example", ELSEWHERE),
    ("private.example", PRIVATE),
    ("proxy.example", ELSEWHERE),
];
pub(super) const USER: &str = "u";
pub(super) const PASSWORD: &str = "pw";

/// What the proxy was asked to connect to, in its words.
pub(super) type Asked = Arc<Mutex<Vec<String>>>;

/// Has all of it in `internet` until the process ends.
pub(super) fn serve(internet: &Internet) -> Asked {
    internet.loopback_up();
    let asked = Asked::default();
    let (ready, is_ready) = mpsc::channel();
    let known = Arc::clone(&asked);
    internet.within(move || {
        let dns = UdpSocket::bind(("0.0.0.0", 53)).unwrap();
        thread::spawn(move || answer_names(&dns));
        // The one that hardly any rules keep programs from: whoever gets here has a way out.
        serve_each(53, |_stream| Ok(()));
        serve_each(80, answer_requests);
        serve_each(443, answer_hello);
        serve_each(22, speak_first);
        serve_each(1080, move |stream| proxy(stream, &known));
        ready.send(()).unwrap();
    });
    is_ready.recv().unwrap();
    asked
}

pub(super) fn serve_each(
    port: u16,
    work: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let work = Arc::new(work);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let work = Arc::clone(&work);
            // Whoever breaks it off is not interested.
            thread::spawn(move || drop(work(stream.unwrap())));
        }
    });
}

fn answer_names(dns: &UdpSocket) {
    let mut packet = [0; 512];
    while let Ok((len, from)) = dns.recv_from(&mut packet) {
        // A word to find out whether there is a way.
        if let Some((_name, answer)) = answer_name(&packet[..len]) {
            dns.send_to(&answer, from).unwrap();
        }
    }
}

/// The name that is asked for, and what the world says to that.
pub(super) fn answer_name(packet: &[u8]) -> Option<(String, Vec<u8>)> {
    if packet.len() < 12 {
        return None;
    }
    let question_end = packet[12..].iter().position(|byte| *byte == 0).unwrap() + 12 + 5;
    let mut labels = Vec::new();
    let mut at = 12;
    while packet[at] != 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).into_owned());
        at = end;
    }
    let name = labels.join(".");
    let is_v4 = packet[question_end - 4..question_end - 2] == [0, 1];
    let address = NAMES.iter().find(|(known, _)| *known == name && is_v4);
    let mut answer = packet[..question_end].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..12].copy_from_slice(&[0, u8::from(address.is_some()), 0, 0, 0, 0]);
    if let Some((_, address)) = address {
        answer.extend([0xC0, 0x0C, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some((name, answer))
}

fn answer_requests(stream: TcpStream) -> io::Result<()> {
    let (to, from) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
    answer_all(stream, to, from)
}

/// Tells every request where it has come to, from whom, and what it was.
pub(super) fn answer_all(
    mut stream: impl Read + Write,
    to: IpAddr,
    from: IpAddr,
) -> io::Result<()> {
    let (mut begun, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        begun.extend(&buffer[..len]);
        if begun.ends_with(b"\r\n\r\n") {
            let text = format!("at {to} from {from}\n{}", String::from_utf8_lossy(&begun));
            begun.clear();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
            if text.contains("Connection: close") {
                return Ok(());
            }
        }
    }
}

/// Tells whoever begins TLS where it has come to, and keeps the connection.
fn answer_hello(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let len = stream.read(&mut buffer)?;
    writeln!(stream, "{len} bytes at {}", stream.local_addr()?.ip())?;
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

fn speak_first(mut stream: TcpStream) -> io::Result<()> {
    writeln!(stream, "SSH-2.0-test at {}", stream.local_addr()?.ip())
}

/// A SOCKS5 server that wants the password.
fn proxy(mut client: TcpStream, asked: &Asked) -> io::Result<()> {
    let read = |client: &mut TcpStream, len: usize| {
        let mut bytes = vec![0; len];
        client.read_exact(&mut bytes).map(|()| bytes)
    };
    let methods = usize::from(read(&mut client, 2)?[1]);
    read(&mut client, methods)?;
    client.write_all(&[5, 2])?;
    let len = usize::from(read(&mut client, 2)?[1]);
    let user = read(&mut client, len)?;
    let len = usize::from(read(&mut client, 1)?[0]);
    let password = read(&mut client, len)?;
    if (user, password) != (USER.into(), PASSWORD.into()) {
        return client.write_all(&[1, 1]);
    }
    client.write_all(&[1, 0])?;
    let kind = read(&mut client, 4)?[3];
    let (words, ip) = if kind == 1 {
        let ip = <[u8; 4]>::try_from(read(&mut client, 4)?).unwrap();
        (Ipv4Addr::from(ip).to_string(), Ipv4Addr::from(ip))
    } else {
        let len = usize::from(read(&mut client, 1)?[0]);
        let name = String::from_utf8(read(&mut client, len)?).unwrap();
        let ip = NAMES.iter().find(|(known, _)| *known == name).unwrap().1;
        (name, ip)
    };
    let port = u16::from_be_bytes(read(&mut client, 2)?.try_into().unwrap());
    asked.lock().push(format!("{words}:{port}"));
    let mut server = TcpStream::connect((ip, port))?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || drop(io::copy(&mut from, &mut to)));
    io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Write)
}

/// What a program in the sandbox at `addr` gets that connects to `to`, a host and a port, sends
/// `bytes` and waits for the end, or for a second line.
pub(super) async fn talk(addr: IpAddr, to: (&str, u16), bytes: &[u8]) -> Output {
    let escaped = escape(bytes);
    let (host, port) = to;
    let ask = format!("exec 3<>/dev/tcp/{host}/{port} && printf \"{escaped}\" >&3 && exec cat <&3");
    run(addr, "user", &format!("timeout 20 bash -c '{ask}'")).await
}

/// Asks for `host` by HTTP at `to`.
pub(super) async fn get(addr: IpAddr, to: &str, host: &str) -> Output {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    talk(addr, (to, 80), request.as_bytes()).await
}

/// Begins TLS with the server `name` at `to`; what it says is the first line.
pub(super) async fn hello(addr: IpAddr, to: &str, name: &str) -> Output {
    let escaped = escape(&client_hello(name));
    let ask = format!(
        "exec 3<>/dev/tcp/{to}/443 && printf \"{escaped}\" >&3 && read -r a <&3 && echo $a"
    );
    run(addr, "user", &format!("timeout 20 bash -c '{ask}'")).await
}

/// Begins TLS with the server `name` at `to`, and keeps the connection; what comes of it is in a
/// file of that name, and at its end `over`.
pub(super) async fn keep_open(addr: IpAddr, to: &str, name: &str) {
    let ask = format!(
        "exec 3<>/dev/tcp/{to}/443; printf \"{}\" >&3; cat <&3; echo over",
        escape(&client_hello(name))
    );
    let ask = format!("busybox setsid bash -c '{ask}' </dev/null >/tmp/{name} 2>&1 &");
    assert_eq!(run(addr, "user", &ask).await.code, 0);
    wait_for("an open connection", LIMIT, async || has(addr, name, "bytes").await).await;
}

/// Whether the connection to `name` that was kept open is over.
pub(super) async fn is_over(addr: IpAddr, name: &str) -> bool {
    has(addr, name, "over").await
}

async fn has(addr: IpAddr, name: &str, word: &str) -> bool {
    run(addr, "user", &format!("busybox grep -q {word} /tmp/{name}")).await.code == 0
}

/// As bash's printf takes it.
pub(super) fn escape(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// The first message of TLS (RFC 8446, 4.1.2) with nothing in it but the name of the server.
fn client_hello(name: &str) -> Vec<u8> {
    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }
    let names = sized(&[vec![0], sized(name.as_bytes())].concat());
    let extensions = sized(&[vec![0, 0], sized(&names)].concat());
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(extensions);
    let message = [vec![1, 0], sized(&body)].concat();
    [vec![22, 3, 1], sized(&message)].concat()
}
