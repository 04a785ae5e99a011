//! The client's part of SOCKS5 (RFC 1928), with a name and a password (RFC 1929).

use std::io;

use model::{Credentials, HostName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 2;
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

/// A proxy that does not let a connection through.
#[derive(Debug, thiserror::Error)]
pub enum SocksError {
    #[error("the egress proxy ended the connection")]
    Io(#[from] io::Error),
    #[error("the egress proxy does not speak SOCKS5")]
    NotSocks,
    #[error("the egress proxy takes none of the ways to authenticate that there are")]
    NoMethod,
    #[error("the egress proxy does not take this username and password")]
    Denied,
    #[error("the egress proxy refuses: {}", words(*.0))]
    Refused(u8),
    /// RFC 1929 has a byte for the length.
    #[error("the username, the password or the name is too long for the egress proxy")]
    TooLong,
}

/// Where a proxy is to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    Name(HostName, u16),
    Address(std::net::SocketAddrV4),
}

/// Has the proxy at the other end of `stream` connect to `destination`. From then on the stream is
/// the connection.
///
/// Cancel safety: no; the stream is of no use afterwards.
pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: Option<&Credentials>,
    destination: &Destination,
) -> Result<(), SocksError> {
    let greeting: &[u8] = match credentials {
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, PASSWORD],
        None => &[VERSION, 1, NO_AUTHENTICATION],
    };
    say(stream, greeting).await?;
    let [version, method] = read(stream).await?;
    match (version, method, credentials) {
        (VERSION, NO_AUTHENTICATION, _) => {}
        (VERSION, PASSWORD, Some(credentials)) => authenticate(stream, credentials).await?,
        (VERSION, _, _) => return Err(SocksError::NoMethod),
        _ => return Err(SocksError::NotSocks),
    }
    say(stream, &request(destination)?).await?;
    let [version, reply, _reserved, kind] = read(stream).await?;
    if version != VERSION {
        return Err(SocksError::NotSocks);
    }
    if reply != 0 {
        return Err(SocksError::Refused(reply));
    }
    // The address it connects from, and the port.
    let len = match kind {
        IPV4 => 4,
        IPV6 => 16,
        DOMAIN => usize::from(stream.read_u8().await?),
        _ => return Err(SocksError::NotSocks),
    };
    let mut bound = vec![0; len + 2];
    stream.read_exact(&mut bound).await?;
    Ok(())
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
) -> Result<(), SocksError> {
    let mut message = vec![PASSWORD_VERSION];
    put(&mut message, credentials.username.as_bytes())?;
    put(&mut message, credentials.password.expose().as_bytes())?;
    say(stream, &message).await?;
    let [_version, status] = read(stream).await?;
    if status == 0 { Ok(()) } else { Err(SocksError::Denied) }
}

fn request(destination: &Destination) -> Result<Vec<u8>, SocksError> {
    let mut message = vec![VERSION, CONNECT, 0];
    let port = match destination {
        Destination::Name(name, port) => {
            message.push(DOMAIN);
            put(&mut message, name.as_str().as_bytes())?;
            *port
        }
        Destination::Address(address) => {
            message.push(IPV4);
            message.extend(address.ip().octets());
            address.port()
        }
    };
    message.extend(port.to_be_bytes());
    Ok(message)
}

fn put(message: &mut Vec<u8>, text: &[u8]) -> Result<(), SocksError> {
    message.push(u8::try_from(text.len()).map_err(|_big| SocksError::TooLong)?);
    message.extend(text);
    Ok(())
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    stream.write_all(message).await?;
    // In TLS what is written may wait.
    stream.flush().await
}

async fn read<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// RFC 1928, 6.
const fn words(reply: u8) -> &'static str {
    match reply {
        1 => "it has failed",
        2 => "its rules do not allow the connection",
        3 => "the network cannot be reached",
        4 => "the host cannot be reached",
        5 => "the host refuses the connection",
        6 => "it took too long",
        7 => "it does not connect",
        8 => "it does not know this kind of address",
        _ => "it does not say why",
    }
}

#[cfg(test)]
mod tests {
    use model::{Credentials, Secret};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{Destination, SocksError, connect};

    /// What comes of a proxy that sends `replies`, and what it was sent.
    async fn play(
        credentials: Option<&Credentials>,
        destination: &Destination,
        replies: &[u8],
    ) -> (Result<(), SocksError>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(replies).await.unwrap();
        let connected = connect(&mut ours, credentials, destination).await;
        drop(ours);
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        (connected, sent)
    }

    fn caller(password: &str) -> Credentials {
        Credentials { username: "me".into(), password: Secret::new(password.into()) }
    }

    #[tokio::test]
    async fn a_name_is_sent_as_a_name_after_the_password() {
        let destination = Destination::Name("a.com".parse().unwrap(), 443);
        let replies = [5, 2, 1, 0, 5, 0, 0, 3, 2, b'x', b'y', 0, 9];
        let (done, sent) = play(Some(&caller("pw")), &destination, &replies).await;
        done.unwrap();
        let expected = b"\x05\x02\x00\x02\x01\x02me\x02pw\x05\x01\x00\x03\x05a.com\x01\xbb";
        assert_eq!(sent, expected);
    }

    #[tokio::test]
    async fn an_address_is_sent_to_a_proxy_that_asks_for_nobody() {
        let destination = Destination::Address("203.0.113.7:80".parse().unwrap());
        let replies = [5, 0, 5, 0, 0, 1, 1, 2, 3, 4, 0, 9];
        let (done, sent) = play(None, &destination, &replies).await;
        done.unwrap();
        assert_eq!(sent, b"\x05\x01\x00\x05\x01\x00\x01\xcb\x00\x71\x07\x00\x50");
        let (done, sent) = play(Some(&caller("pw")), &destination, &replies).await;
        done.unwrap();
        assert!(!sent.windows(2).any(|part| part == b"pw"), "nobody has asked for it");
    }

    #[tokio::test]
    async fn what_a_proxy_does_wrong_is_told() {
        let destination = Destination::Address("203.0.113.7:80".parse().unwrap());
        let (who, nobody) = (caller("pw"), None);
        let rows: [(Option<&Credentials>, &[u8], &str); 8] = [
            (nobody, b"HTTP/1.1 400", "does not speak SOCKS5"),
            (nobody, &[5, 0xff], "none of the ways"),
            (nobody, &[5, 2], "none of the ways"),
            (Some(&who), &[5, 2, 1, 1], "this username and password"),
            (nobody, &[5, 0, 5, 2], "ended the connection"),
            (nobody, &[5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0], "its rules do not allow"),
            (nobody, &[5, 0, 5, 0, 0, 9], "does not speak SOCKS5"),
            (nobody, &[], "ended the connection"),
        ];
        for (credentials, replies, part) in rows {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            let mut ours = ours;
            theirs.write_all(replies).await.unwrap();
            theirs.shutdown().await.unwrap();
            let error = connect(&mut ours, credentials, &destination).await.unwrap_err();
            assert!(error.to_string().contains(part), "{error} for {replies:?}");
        }
    }
}
