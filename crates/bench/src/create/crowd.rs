//! Connections that the host remembers beside those of sandboxes (conntrack).

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

/// The kernel forgets a packet that nobody answered after 30 s
/// (`nf_conntrack_udp_timeout`).
const AGAIN: Duration = Duration::from_secs(10);
/// The discard service (RFC 863), where nobody listens.
const PORT: u16 = 9;
/// Addresses of the loopback that nobody else uses, from here on.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 99, 0, 0);

/// Keeps the host from forgetting connections of its own, until it is dropped.
#[derive(Debug)]
pub(super) struct Crowd {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Of `count` connections, which are remembered when this returns.
    pub(super) fn gather(count: u32) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("make a socket")?;
        send(&socket, count)?;
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            while matches!(stopped.recv_timeout(AGAIN), Err(RecvTimeoutError::Timeout)) {
                if let Err(error) = send(&socket, count) {
                    println!("the host's connections are fewer than they should be: {error:#}");
                }
            }
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_panicked)) = self.thread.take().map(JoinHandle::join) {
            println!("the thread that kept connections up has panicked");
        }
    }
}

fn send(socket: &UdpSocket, count: u32) -> anyhow::Result<()> {
    for number in 0..count {
        let address = Ipv4Addr::from_bits(FIRST.to_bits() + number);
        match socket.send_to(b"x", (address, PORT)) {
            // What became of an earlier one.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            sent => sent.map(|_bytes| ()).with_context(|| format!("send to {address}"))?,
        }
    }
    Ok(())
}
