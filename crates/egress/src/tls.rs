//! The name in a TLS client's first message (RFC 8446, 4.1.2; RFC 6066, 3).

use model::HostName;

/// The type of a record that is part of a handshake, and of a handshake that is a client's first
/// message.
pub(crate) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The number of the extension that names the server, and the only kind of name there is.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// The most that a record may have (RFC 8446, 5.1).
const RECORD_MAX: usize = 1 << 14;

/// Reads the name of the server from `bytes`, which begin with a record. `None`: more is needed.
/// `Some(None)`: it is no client's first message, or none that names a server.
pub(crate) fn server_name(bytes: &[u8]) -> Option<Option<HostName>> {
    let (hello, is_whole) = match message(bytes) {
        Ok(found) => found,
        Err(Broken) => return Some(None),
    };
    if hello.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Some(None);
    }
    // Only when all of it is there: nothing may come behind the name that makes it another's.
    is_whole.then(|| name_in(&hello).ok().flatten())
}

/// It is not what it has to be.
struct Broken;

/// The bytes of the first message, put together from its records, and whether that is all of it.
fn message(mut bytes: &[u8]) -> Result<(Vec<u8>, bool), Broken> {
    let mut message = Vec::new();
    loop {
        if let [_kind, a, b, c, ..] = message[..] {
            let whole =
                4 + usize::try_from(u32::from_be_bytes([0, a, b, c])).map_err(|_big| Broken)?;
            if message.len() >= whole {
                message.truncate(whole);
                return Ok((message, true));
            }
        }
        let [kind, major, _minor, high, low, rest @ ..] = bytes else {
            return match bytes.first() {
                Some(&HANDSHAKE) | None => Ok((message, false)),
                Some(_) => Err(Broken),
            };
        };
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        // An empty one is not allowed in a handshake.
        if *kind != HANDSHAKE || *major != 3 || len == 0 || len > RECORD_MAX {
            return Err(Broken);
        }
        let (part, rest) = rest.split_at(len.min(rest.len()));
        message.extend(part);
        bytes = rest;
    }
}

fn name_in(hello: &[u8]) -> Result<Option<HostName>, Broken> {
    let mut hello = Reader(hello);
    // Type and length, version, random.
    hello.take(4 + 2 + 32)?;
    hello.vector8()?;
    hello.vector16()?;
    hello.vector8()?;
    if hello.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = Reader(hello.vector16()?);
    hello.end()?;
    let mut named = None;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector16()?;
        // A second one is not allowed: servers do not agree which counts.
        if kind == SERVER_NAME && named.replace(content).is_some() {
            return Err(Broken);
        }
    }
    named.map(only_name).transpose().map(Option::flatten)
}

/// The one name in a list of names. One that is no host's, or an address, is none.
fn only_name(list: &[u8]) -> Result<Option<HostName>, Broken> {
    let mut list = Reader(list);
    let mut names = Reader(list.vector16()?);
    list.end()?;
    let [kind] = names.take(1)? else { return Err(Broken) };
    let name = names.vector16()?;
    names.end()?;
    if *kind != HOST_NAME {
        return Ok(None);
    }
    Ok(std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()))
}

/// Takes what is next from bytes, as long as there is enough.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, Broken> {
        let [high, low] = self.take(2)? else { return Err(Broken) };
        Ok(u16::from_be_bytes([*high, *low]))
    }

    fn vector8(&mut self) -> Result<&'a [u8], Broken> {
        let [len] = self.take(1)? else { return Err(Broken) };
        self.take(usize::from(*len))
    }

    fn vector16(&mut self) -> Result<&'a [u8], Broken> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    fn end(&self) -> Result<(), Broken> {
        if self.0.is_empty() { Ok(()) } else { Err(Broken) }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::HANDSHAKE;

    fn vector16(content: &[u8]) -> Vec<u8> {
        let len = u16::try_from(content.len()).unwrap();
        [&len.to_be_bytes(), content].concat()
    }

    /// The extension that names a server.
    pub(crate) fn names(names: &[(u8, &str)]) -> Vec<u8> {
        let entry = |(kind, name): &(u8, &str)| [vec![*kind], vector16(name.as_bytes())].concat();
        let list: Vec<u8> = names.iter().flat_map(entry).collect();
        [vec![0, 0], vector16(&vector16(&list))].concat()
    }

    /// A client's first message with these extensions, as one handshake message.
    pub(crate) fn hello(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0]);
        body.extend([0, 2, 0x13, 0x01]);
        body.extend([1, 0]);
        body.extend(vector16(extensions));
        let len = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1], &len[1..], &body].concat()
    }

    /// `message` in records of `size` bytes each.
    pub(crate) fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [vec![HANDSHAKE, 3, 1], vector16(part)].concat();
        message.chunks(size).flat_map(record).collect()
    }

    /// As a client sends it, cut into records of `cut` bytes unless that is 0.
    pub(crate) fn client_hello(name: Option<&str>, cut: usize) -> Vec<u8> {
        // Another extension before and behind.
        let other = [vec![0, 43], vector16(&[2, 3, 4])].concat();
        let named = name.map(|name| names(&[(0, name)])).unwrap_or_default();
        let hello = hello(&[other.clone(), named, other].concat());
        records(&hello, if cut == 0 { hello.len() } else { cut })
    }
}

#[cfg(test)]
mod tests {
    use super::server_name;
    use super::testing::{client_hello, hello, names, records};

    fn named(bytes: &[u8]) -> Option<String> {
        server_name(bytes).unwrap().map(|name| name.to_string())
    }

    #[test]
    fn the_name_is_found_however_the_message_is_cut() {
        for cut in [0, 1, 2, 5, 40] {
            let bytes = client_hello(Some("A.example.com"), cut);
            assert_eq!(named(&bytes).as_deref(), Some("a.example.com"), "{cut}");
            for len in 0..bytes.len() {
                assert_eq!(server_name(&bytes[..len]), None, "{len} of {} bytes", bytes.len());
            }
        }
        assert_eq!(named(&client_hello(None, 0)), None);
        assert_eq!(named(&client_hello(Some("192.0.2.1"), 0)), None);
    }

    #[test]
    fn what_servers_may_read_in_two_ways_has_no_name() {
        let one = |name| names(&[(0, name)]);
        let twice = [one("a.com"), one("b.com")].concat();
        let list = names(&[(0, "a.com"), (0, "b.com")]);
        let other_kind = names(&[(1, "a.com")]);
        let mut long = names(&[(0, "a.com")]);
        long.extend([0, 9, 0, 200]);
        for extensions in [twice, list, other_kind, long, Vec::new(), names(&[(0, "a.com\0")])] {
            let hello = hello(&extensions);
            assert_eq!(named(&records(&hello, hello.len())), None, "{extensions:?}");
        }
        let mut behind = hello(&one("a.com"));
        behind.push(0);
        behind[3] += 1;
        assert_eq!(named(&records(&behind, 100)), None, "something behind the extensions");
    }

    #[test]
    fn what_is_no_first_message_is_known_at_once() {
        for bytes in [
            &[22, 2, 0, 0, 5][..],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0x40, 0x01],
            &[22, 3, 1, 0, 9, 2],
            &[22, 3, 1, 0, 1, 1, 23],
        ] {
            assert_eq!(server_name(bytes), Some(None), "{bytes:?}");
        }
    }
}
