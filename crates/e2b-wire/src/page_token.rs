use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use crate::Timestamp;

/// Longer than any token this server makes.
const MAX: usize = 256;

/// How a list is ordered by time; within one moment ids run the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    Ascending,
    #[default]
    Descending,
}

/// The row a page ended with: the next one begins after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    pub time: Timestamp,
    pub id: String,
    pub order: Order,
}

/// Text that is no page token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nextToken is not one this server gave out; start again without it")]
pub struct PageTokenError;

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.order {
            Order::Ascending => "__asc",
            Order::Descending => "",
        };
        f.write_str(&URL_SAFE.encode(format!("{}__{}{suffix}", self.time, self.id)))
    }
}

impl FromStr for PageToken {
    type Err = PageTokenError;

    fn from_str(text: &str) -> Result<Self, PageTokenError> {
        if text.len() > MAX {
            return Err(PageTokenError);
        }
        let bytes = URL_SAFE.decode(text).map_err(|_not_base64| PageTokenError)?;
        let plain = String::from_utf8(bytes).map_err(|_not_text| PageTokenError)?;
        let mut parts = plain.split("__");
        let (time, id, order) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(time), Some(id), None, None) => (time, id, Order::Descending),
            (Some(time), Some(id), Some("asc"), None) => (time, id, Order::Ascending),
            _ => return Err(PageTokenError),
        };
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(PageTokenError);
        }
        let time = time.parse().map_err(|_not_a_time| PageTokenError)?;
        Ok(Self { time, id: id.to_owned(), order })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Order, PageToken, PageTokenError};
    use crate::Timestamp;

    #[test]
    fn a_token_is_the_padded_base64_of_time_and_id() {
        let token = PageToken {
            time: "2026-01-02T03:04:05.5Z".parse().unwrap(),
            id: "iabcd".into(),
            order: Order::Ascending,
        };
        assert_eq!(token.to_string(), URL_SAFE.encode("2026-01-02T03:04:05.5Z__iabcd__asc"));
        assert!(token.to_string().ends_with('='));
    }

    #[test]
    fn other_text_is_refused() {
        let plain = [
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05Z__",
            "x__iabc",
            "2026-01-02T03:04:05Z__iabc__desc",
            "2026-01-02T03:04:05Z__iabc__asc__asc",
            "2026-01-02T03:04:05Z__i'abc",
        ];
        for text in plain {
            assert_eq!(URL_SAFE.encode(text).parse::<PageToken>(), Err(PageTokenError), "{text}");
        }
        for text in ["", "!!", "MjAyNg", &"A".repeat(300)] {
            assert_eq!(text.parse::<PageToken>(), Err(PageTokenError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_token_is_read_back(
            micros in 0_i64..4_000_000_000_000_000, id in "[a-z0-9]{1,40}", asc in any::<bool>()
        ) {
            let order = if asc { Order::Ascending } else { Order::Descending };
            let token = PageToken { time: Timestamp::from_micros(micros).unwrap(), id, order };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            drop(text.parse::<PageToken>());
            drop(URL_SAFE.encode(&text).parse::<PageToken>());
        }
    }
}
