use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment as the API writes it: RFC 3339 in UTC, on the grid of whole microseconds.
///
/// The grid is what paging compares on, and the Python SDK reads no finer fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

/// Text that is not RFC 3339, or a moment outside the years -9999 to 9999.
#[derive(Debug, thiserror::Error)]
#[error("a time must be RFC 3339, such as 2026-01-31T12:00:00Z")]
pub struct TimestampError(#[source] jiff::Error);

impl Timestamp {
    /// # Errors
    /// [`TimestampError`] when no calendar has the moment.
    pub fn from_micros(micros: i64) -> Result<Self, TimestampError> {
        jiff::Timestamp::from_microsecond(micros).map(Self).map_err(TimestampError)
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.as_second()
    }

    /// Later by `span`; the end of the calendar when there is no such moment.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span).unwrap_or(jiff::Timestamp::MAX)).on_grid()
    }

    /// Earlier by `span`; the beginning of the calendar when there is no such moment.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span).unwrap_or(jiff::Timestamp::MIN)).on_grid()
    }

    #[must_use]
    pub fn to_system_time(self) -> SystemTime {
        self.0.into()
    }

    fn on_grid(self) -> Self {
        // The calendar's range in microseconds is that of the nanoseconds, so this holds.
        jiff::Timestamp::from_microsecond(self.0.as_microsecond()).map_or(self, Self)
    }
}

impl From<SystemTime> for Timestamp {
    /// Moments no calendar has become its nearest end.
    fn from(time: SystemTime) -> Self {
        let exact = jiff::Timestamp::try_from(time).unwrap_or_else(|_out_of_range| {
            if time < SystemTime::UNIX_EPOCH { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX }
        });
        Self(exact).on_grid()
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        text.parse::<jiff::Timestamp>().map(|exact| Self(exact).on_grid()).map_err(TimestampError)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::{prop_assert_eq, proptest};

    use super::Timestamp;

    #[test]
    fn it_is_written_in_utc_with_at_most_six_digits_of_fraction() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        assert_eq!(Timestamp::from(time).to_string(), "2023-11-14T22:13:20.123456Z");
        let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(Timestamp::from(whole).to_string(), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn an_offset_is_understood_and_other_text_refused() {
        let east: Timestamp = "2023-11-15T00:13:20+02:00".parse().unwrap();
        assert_eq!(east.to_string(), "2023-11-14T22:13:20Z");
        for text in ["", "yesterday", "2023-11-14", "1700000000"] {
            text.parse::<Timestamp>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(micros in -60_000_000_000_000_000_i64..250_000_000_000_000_000) {
            let time = Timestamp::from_micros(micros).unwrap();
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
            prop_assert_eq!(time.micros(), micros);
        }
    }
}
