//! The protocols inside of TLS, as a program offers them (RFC 7301).

use rustls::server::Acceptor;

/// A protocol in which requests can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    H2,
    Http1,
}

impl Protocol {
    fn read(wire: &[u8]) -> Option<Self> {
        match wire {
            b"h2" => Some(Self::H2),
            b"http/1.1" => Some(Self::Http1),
            _ => None,
        }
    }

    pub(crate) fn to_wire(self) -> Vec<u8> {
        match self {
            Self::H2 => b"h2".to_vec(),
            Self::Http1 => b"http/1.1".to_vec(),
        }
    }
}

/// What a program offers to speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It names no protocol: HTTP/1.1, by the custom of what speaks HTTPS.
    Unnamed,
    /// Those of its protocols that are known here, in its order.
    Named(Vec<Protocol>),
    /// It names some, and none that is HTTP.
    Foreign,
}

impl Offer {
    /// Reads it in `begun`, a client's whole first message. One that cannot be understood is
    /// answered by the handshake itself.
    pub(crate) fn read(mut begun: &[u8]) -> Self {
        let mut acceptor = Acceptor::default();
        while acceptor.read_tls(&mut begun).is_ok_and(|len| len > 0) {
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let Some(named) = accepted.client_hello().alpn() else { break };
                    let known: Vec<Protocol> = named.filter_map(Protocol::read).collect();
                    return if known.is_empty() { Self::Foreign } else { Self::Named(known) };
                }
                Err(_not_understood) => break,
            }
        }
        Self::Unnamed
    }

    /// What may be spoken to the server, the program's first choice first; without h2 if there is no
    /// room for it.
    pub(crate) fn usable(&self, h2: bool) -> Vec<Protocol> {
        match self {
            Self::Unnamed | Self::Foreign => vec![Protocol::Http1],
            Self::Named(named) => {
                named.iter().copied().filter(|protocol| h2 || *protocol != Protocol::H2).collect()
            }
        }
    }

    /// What is told to the program of the protocol that is spoken, which is nothing to one that did
    /// not ask.
    pub(crate) fn told(&self, spoken: Protocol) -> Option<Protocol> {
        matches!(self, Self::Named(_)).then_some(spoken)
    }
}
