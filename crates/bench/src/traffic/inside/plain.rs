//! Files, by one thread for each connection, which does nothing but copy.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::Context;

use crate::traffic::load::{content_length, split};

const FILE: &str = "/home/user/plain";
const BUFFER_BYTES: usize = 64 * 1024;

/// Serves `POST`, which writes the file, and `GET`, which reads it.
pub(super) fn listen(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    std::thread::Builder::new().spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || serve(socket));
        }
    })?;
    Ok(())
}

/// One request; its connection ends with it.
fn serve(mut socket: TcpStream) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    let (head, rest) = loop {
        let read = socket.read(buffer.get_mut(filled..).unwrap_or_default())?;
        filled += read;
        let seen = buffer.get(..filled).unwrap_or_default();
        if let Some((head, rest)) = split(seen) {
            break (head.to_vec(), rest.to_vec());
        }
        anyhow::ensure!(read > 0, "no head");
    };
    if head.starts_with(b"POST") {
        let length = content_length(&head).context("no length")?;
        let mut file = File::create(FILE)?;
        file.write_all(&rest)?;
        let mut left = length - rest.len();
        while left > 0 {
            let read = socket.read(&mut buffer)?;
            anyhow::ensure!(read > 0, "the upload broke off");
            file.write_all(buffer.get(..read).unwrap_or_default())?;
            left -= read;
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(());
    }
    let mut file = File::open(FILE)?;
    let length = file.metadata()?.len();
    socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        socket.write_all(buffer.get(..read).unwrap_or_default())?;
    }
}
