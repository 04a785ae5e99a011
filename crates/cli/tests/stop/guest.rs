//! Programs inside a sandbox, started through the service as a client does it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

/// Starts `script` by the shell of sandbox `id` and hangs up; its process number inside.
pub(crate) fn start(address: SocketAddr, id: &str, script: &str) -> u64 {
    let mut stream = request(address, id, script).unwrap();
    let mut seen = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).unwrap();
        assert_ne!(length, 0, "no answer: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..length]);
        if let Some(pid) = pid_in(&String::from_utf8_lossy(&seen)) {
            return pid;
        }
    }
}

/// The process number in what is there of an answer.
pub(crate) fn pid_in(seen: &str) -> Option<u64> {
    let (_, rest) = seen.split_once(r#""pid":"#)?;
    let (number, _) = rest.split_once(['}', ','])?;
    Some(number.trim().parse().unwrap())
}

/// Runs `script` to its end; everything its answer consists of.
pub(crate) fn run(address: SocketAddr, id: &str, script: &str) -> String {
    try_run(address, id, script).unwrap()
}

/// The same, of a service that may not be there.
pub(crate) fn try_run(address: SocketAddr, id: &str, script: &str) -> io::Result<String> {
    let mut stream = request(address, id, script)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Starts `script`; the stream of what it says.
pub(crate) fn request(address: SocketAddr, id: &str, script: &str) -> io::Result<TcpStream> {
    let process = json!({ "cmd": "/bin/sh", "args": ["-c", script] });
    call(address, id, "Start", &json!({ "process": process, "stdin": false }))
}

/// The stream of what the process `pid` says from now on.
pub(crate) fn connect(address: SocketAddr, id: &str, pid: u64) -> io::Result<TcpStream> {
    call(address, id, "Connect", &json!({ "process": { "pid": pid } }))
}

fn call(address: SocketAddr, id: &str, method: &str, message: &Value) -> io::Result<TcpStream> {
    let message = message.to_string();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message.as_bytes());
    let head = format!(
        "POST /process.Process/{method} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: {port}\r\n\
         Content-Type: application/connect+json\r\nConnect-Protocol-Version: 1\r\n\
         Authorization: Basic cm9vdDo=\r\nContent-Length: {length}\r\n\r\n",
        port = guest_wire::ENVD_PORT,
        length = body.len(),
    );
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    Ok(stream)
}
