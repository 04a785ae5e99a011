use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::kit::{Server, World, read_head};

/// A client that writes its own requests, all on one connection.
pub(super) struct Client(pub(super) TcpStream);

impl Client {
    pub(super) async fn new(world: &World) -> Self {
        Self(world.socket().await)
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next answer that is not one before the last: its head, and all of its body.
    pub(super) async fn answer(&mut self) -> (String, String) {
        let mut head = read_head(&mut self.0).await;
        while head.starts_with("HTTP/1.1 100") {
            head = read_head(&mut self.0).await;
        }
        let mut data = Vec::new();
        if let Some(length) = value(&head, "Content-Length: ") {
            data.resize(length.parse().unwrap(), 0);
            self.0.read_exact(&mut data).await.unwrap();
        } else {
            assert_eq!(value(&head, "Transfer-Encoding: "), Some("chunked"), "{head}");
            while let Some(chunk) = self.chunk().await {
                data.extend_from_slice(&chunk);
            }
        }
        (head, String::from_utf8(data).unwrap())
    }

    pub(super) async fn data(&mut self) -> String {
        self.answer().await.1
    }

    /// The data of the next chunk; `None` after the last.
    pub(super) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = String::new();
        while !size.ends_with("\r\n") {
            size.push(char::from(self.0.read_u8().await.unwrap()));
        }
        let mut data = vec![0; usize::from_str_radix(size.trim(), 16).unwrap()];
        self.0.read_exact(&mut data).await.unwrap();
        assert_eq!(self.0.read_u16().await.unwrap(), u16::from_be_bytes(*b"\r\n"));
        (!data.is_empty()).then_some(data)
    }

    /// All that comes before the edge closes the connection, in whatever way.
    pub(super) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        drop(self.0.read_to_end(&mut rest).await);
        String::from_utf8(rest).unwrap()
    }
}

pub(super) fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name))
}

pub(super) fn request(method: &str, (server, sandbox): (&Server, &str), lines: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: {}-{sandbox}.x\r\n{lines}\r\n", server.port)
}

pub(super) fn get(to: (&Server, &str)) -> String {
    request("GET", to, "")
}
