//! Which sandbox and port a request is for: two headers on any host name, or the host name itself.

use std::num::NonZero;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use model::SandboxId;

/// Names the sandbox of a request, together with [`SANDBOX_PORT_HEADER`].
pub const SANDBOX_ID_HEADER: HeaderName = HeaderName::from_static("e2b-sandbox-id");
/// Names the port inside the sandbox, together with [`SANDBOX_ID_HEADER`].
pub const SANDBOX_PORT_HEADER: HeaderName = HeaderName::from_static("e2b-sandbox-port");

/// The port of the guest agent in every sandbox.
pub const ENVD_PORT: NonZero<u16> = NonZero::new(49_983).unwrap();

/// Where traffic for a sandbox goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub sandbox: SandboxId,
    pub port: NonZero<u16>,
}

/// A request that means a sandbox but does not name one. Answered with 400 and this text; what
/// stands before the colon is E2B's own wording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("missing header: {missing} must be sent together with {present}")]
    MissingHeader { missing: &'static str, present: &'static str },
    #[error("Invalid sandbox ID: it must be 1 to {max} characters of a-z and 0-9", max = SandboxId::MAX)]
    SandboxId,
    #[error("Invalid sandbox port: it must be a number from 1 to 65535")]
    Port,
    #[error("{header} was sent twice: a request is for one sandbox and one port")]
    RepeatedHeader { header: &'static str },
    #[error("Invalid host: a request has exactly one Host")]
    Host,
}

const ID_TEXT: &str = "E2b-Sandbox-Id";
const PORT_TEXT: &str = "E2b-Sandbox-Port";

impl Target {
    /// The target the routing headers name; `None` when the request has neither of them. An empty
    /// header is no header.
    ///
    /// # Errors
    /// [`BadTarget`] when one of the two is missing or there twice, or a value is not legal.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, BadTarget> {
        // Whoever checks requests on their way here may have looked at the other one of two.
        let value = |name: HeaderName, header| {
            let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
            let first = values.next().unwrap_or_default();
            values.next().map_or(Ok(first), |_second| Err(BadTarget::RepeatedHeader { header }))
        };
        Self::from_values(
            value(SANDBOX_ID_HEADER, ID_TEXT)?,
            value(SANDBOX_PORT_HEADER, PORT_TEXT)?,
        )
    }

    /// The same of the values of the two headers, empty where there is none.
    ///
    /// # Errors
    /// [`BadTarget`] when one of the two is missing, or not legal.
    pub fn from_values(id: &[u8], port: &[u8]) -> Result<Option<Self>, BadTarget> {
        match (id, port) {
            (b"", b"") => Ok(None),
            (b"", _) => Err(BadTarget::MissingHeader { missing: ID_TEXT, present: PORT_TEXT }),
            (_, b"") => Err(BadTarget::MissingHeader { missing: PORT_TEXT, present: ID_TEXT }),
            (id, port) => {
                let id = std::str::from_utf8(id).map_err(|_not_text| BadTarget::SandboxId)?;
                let port = std::str::from_utf8(port).map_err(|_not_text| BadTarget::Port)?;
                Self::parse(id, port).map(Some)
            }
        }
    }

    /// The target a host name of the form `{port}-{id}[-{anything}].{domain}` names; `None` for
    /// every other host name. A port of the server itself after a colon is allowed.
    ///
    /// The domain is not compared with anything: whoever can reach the server under a name may use
    /// it. The third part is the client id of E2B's early releases.
    ///
    /// A first label of four numbers up to 255 is an address written with dashes, as wildcard DNS
    /// services make them (`10-0-0-5.nip.io`), and therefore no sandbox: no sandbox id is a number.
    ///
    /// # Errors
    /// [`BadTarget`] when the name starts with a number and a dash, but port or id is not legal.
    pub fn from_host(host: &str) -> Result<Option<Self>, BadTarget> {
        let Some((label, _domain)) = host.split_once('.') else { return Ok(None) };
        let Some((port, rest)) = label.split_once('-') else { return Ok(None) };
        if port.is_empty() || !is_number(port) || is_dashed_address(label) {
            return Ok(None);
        }
        let id = rest.split_once('-').map_or(rest, |(id, _client)| id);
        Self::parse(id, port).map(Some)
    }

    /// The host name of this target below `domain`; the inverse of [`Target::from_host`].
    #[must_use]
    pub fn host_name(&self, domain: &str) -> String {
        format!("{}-{}.{domain}", self.port, self.sandbox)
    }

    fn parse(id: &str, port: &str) -> Result<Self, BadTarget> {
        let sandbox = SandboxId::parse(id).map_err(|_why| BadTarget::SandboxId)?;
        // `str::parse` alone would take "+80".
        let port = Some(port)
            .filter(|port| is_number(port))
            .and_then(|port| port.parse().ok())
            .ok_or(BadTarget::Port)?;
        Ok(Self { sandbox, port })
    }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_dashed_address(label: &str) -> bool {
    label.split('-').count() == 4
        && label.split('-').all(|part| is_number(part) && part.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{BadTarget, Target};

    fn target(id: &str, port: &str) -> Target {
        Target { sandbox: id.parse().unwrap(), port: port.parse().unwrap() }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_sandbox_host_name_names_port_and_id_under_any_domain() {
        for host in [
            "8080-iabc.e2b.app",
            "8080-iabc.localhost",
            "8080-iabc.127.0.0.1.nip.io:3002",
            "8080-iabc-6532622b.e2b.app",
            "8080-iabc-6532622b-more.e2b.app",
            "08080-iabc.x",
        ] {
            assert_eq!(Target::from_host(host), Ok(Some(target("iabc", "8080"))), "{host}");
        }
    }

    #[test]
    fn every_other_host_name_is_no_sandbox() {
        for host in [
            "",
            ".",
            "localhost",
            "localhost:3000",
            "127.0.0.1:3000",
            "[::1]:3000",
            "api.e2b.app",
            "my-box.lan",
            "-iabc.e2b.app",
            "8080-iabc",
            "8080-iabc:3000",
            "8080.e2b.app",
            "10-0-0-5.nip.io",
            "10-0-0-255.sslip.io:3000",
        ] {
            assert_eq!(Target::from_host(host), Ok(None), "{host}");
        }
    }

    #[test]
    fn a_sandbox_host_name_with_a_bad_part_is_refused() {
        for (host, why) in [
            ("0-iabc.e2b.app", BadTarget::Port),
            ("65536-iabc.e2b.app", BadTarget::Port),
            ("99999999999999999999999-iabc.e2b.app", BadTarget::Port),
            ("80-.e2b.app", BadTarget::SandboxId),
            ("80-IABC.e2b.app", BadTarget::SandboxId),
            ("80-i_b.e2b.app", BadTarget::SandboxId),
            ("80-i\u{e9}.e2b.app", BadTarget::SandboxId),
        ] {
            assert_eq!(Target::from_host(host), Err(why), "{host}");
        }
    }

    #[test]
    fn headers_need_each_other_and_legal_values() {
        let parse = |pairs: &[_]| Target::from_headers(&headers(pairs));
        let (id, port) = ("e2b-sandbox-id", "e2b-sandbox-port");
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[(id, ""), (port, "")]), Ok(None));
        assert_eq!(parse(&[(id, "iabc"), (port, "49983")]), Ok(Some(target("iabc", "49983"))));
        let lone = parse(&[(id, "iabc")]).unwrap_err().to_string();
        assert_eq!(
            lone,
            "missing header: E2b-Sandbox-Port must be sent together with E2b-Sandbox-Id"
        );
        assert!(matches!(parse(&[(port, "80")]), Err(BadTarget::MissingHeader { .. })));
        for bad in ["0", "65536", "+80", " 80", "-1", "8o", "80.0"] {
            assert_eq!(parse(&[(id, "iabc"), (port, bad)]), Err(BadTarget::Port), "{bad:?}");
        }
        for bad in ["I", "i-6532622b", "../x", &"a".repeat(41)] {
            assert_eq!(parse(&[(id, bad), (port, "80")]), Err(BadTarget::SandboxId), "{bad:?}");
        }
    }

    #[test]
    fn of_two_routing_headers_none_is_believed() {
        for twice in ["e2b-sandbox-id", "e2b-sandbox-port"] {
            let mut headers = headers(&[("e2b-sandbox-id", "iabc"), ("e2b-sandbox-port", "80")]);
            let same = headers.get(twice).unwrap().clone();
            headers.append(twice, same);
            let told = Target::from_headers(&headers).unwrap_err().to_string();
            assert!(told.to_lowercase().starts_with(twice), "{told}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered_and_what_parses_is_in_it(host in "\\PC{0,80}") {
            if let Ok(Some(target)) = Target::from_host(&host) {
                prop_assert!(host.contains(target.sandbox.as_str()));
                prop_assert!(host.contains(&target.port.to_string()));
            }
        }

        #[test]
        fn nearly_legal_names_are_answered_too(
            host in "[0-9+]{0,7}-?[a-z0-9]{0,42}-?[a-zA-Z0-9-]{0,9}\\.?[a-z.:0-9]{0,12}",
        ) {
            if let Ok(Some(target)) = Target::from_host(&host) {
                prop_assert_eq!(Target::from_host(&target.host_name("x")), Ok(Some(target)));
            }
        }

        #[test]
        fn a_target_survives_being_written_as_a_host_name(
            port in any::<std::num::NonZero<u16>>(),
            id in "[a-z0-9]{1,40}",
            domain in "[a-z0-9.-]{0,30}(:[0-9]{1,5})?",
        ) {
            let target = Target { sandbox: id.parse().unwrap(), port };
            prop_assert_eq!(Target::from_host(&target.host_name(&domain)), Ok(Some(target)));
        }
    }
}
