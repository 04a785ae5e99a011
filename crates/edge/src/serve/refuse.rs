use std::io;
use std::time::Duration;

use lifecycle::Budget;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tracing::debug;

/// How long a client may take to hear the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Most that is read of a request that is refused.
const MAX_DRAINED: usize = 64 * 1024;

/// Answers 503 to whatever the client sends, without looking at it, and closes.
///
/// Cancel safety: yes.
pub(super) async fn refuse(socket: TcpStream, limit: usize) {
    match Budget::within(LIMIT).run("refuse", say(socket, limit)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(error = %observe::chain(&error), "refused client had left"),
        Err(error) => debug!(error = %observe::chain(&error), "refused client did not leave"),
    }
}

async fn say(mut socket: TcpStream, limit: usize) -> io::Result<()> {
    let body = format!(
        "{{\"code\":503,\"message\":\"The server has {limit} connections open, which is its limit; \
         close some or try again\"}}"
    );
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n\
         Content-Length: {}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(format!("{head}{body}").as_bytes()).await?;
    socket.shutdown().await?;
    // Closing with unread bytes resets the connection, and the client would not see the answer.
    let mut drained = 0;
    let mut buffer = [0; 4096];
    while drained < MAX_DRAINED {
        match socket.read(&mut buffer).await? {
            0 => break,
            read => drained += read,
        }
    }
    Ok(())
}
