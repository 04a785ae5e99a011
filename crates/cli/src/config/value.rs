//! Reading one value. `None`: the text is not what the key allows.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{Choice, Dns, Patience, YEAR};

pub(super) fn path(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}

pub(super) fn address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// `auto`, or what `read` makes of the text.
pub(super) fn auto_or<T>(read: impl Fn(&str) -> Option<T>) -> impl Fn(&str) -> Option<Choice<T>> {
    move |text| match text {
        "auto" => Some(Choice::Auto),
        other => read(other).map(Choice::Given),
    }
}

/// `off`, or something.
pub(super) fn off_or<T>(read: impl Fn(&str) -> Option<T>) -> impl Fn(&str) -> Option<Option<T>> {
    move |text| match text {
        "off" => Some(None),
        other => read(other).map(Some),
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)], text: &str) -> Option<T> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
}

pub(super) fn number<N>(least: N, most: N) -> impl Fn(&str) -> Option<N>
where
    N: std::str::FromStr + PartialOrd + Copy,
{
    move |text| text.parse().ok().filter(|number| (least..=most).contains(number))
}

/// A host name, with or without a port.
pub(super) fn host(text: &str) -> Option<String> {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let label = |label: &str| {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(legal)
    };
    let port_is_one = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    (name.len() <= 200 && name.split('.').all(label) && port_is_one).then(|| text.to_owned())
}

/// A size in whole MiB.
pub(super) fn size_mib(text: &str) -> Option<u64> {
    let units = [("MiB", 1), ("GiB", 1024), ("TiB", 1024 * 1024)];
    let (number, unit) = units
        .iter()
        .find_map(|(suffix, mib)| text.strip_suffix(suffix).map(|number| (number, *mib)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(unit)
}

pub(super) fn time(least: Duration, most: Duration) -> impl Fn(&str) -> Option<Duration> {
    move |text| duration(text).filter(|time| (least..=most).contains(time))
}

/// Whole numbers with units: `90s`, or several as in `1h30m`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    const UNITS_MS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let mut total_ms = 0_u64;
    let mut rest = text;
    loop {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, ms) = UNITS_MS.iter().find(|(name, _)| *name == unit)?;
        total_ms = total_ms.checked_add(number.parse::<u64>().ok()?.checked_mul(*ms)?)?;
        if after.is_empty() {
            return Some(Duration::from_millis(total_ms));
        }
        rest = after;
    }
}

/// So many a second or a minute: `20/s`, `600/m`. How many that is a second.
pub(super) fn per_second(text: &str) -> Option<f64> {
    let (number, unit) = text.split_once('/')?;
    let number: u32 = number.parse().ok().filter(|number| (1..=1_000_000).contains(number))?;
    let seconds = one_of(&[("s", 1.0), ("m", 60.0), ("h", 3600.0)], unit)?;
    Some(f64::from(number) / seconds)
}

pub(super) fn patience(text: &str) -> Option<Patience> {
    match text {
        "auto" => Some(Patience::Auto),
        "forever" => Some(Patience::Forever),
        text => time(Duration::ZERO, YEAR)(text).map(Patience::Limited),
    }
}

/// `none`, or what `read` makes of the text.
pub(super) fn none_or<T>(read: impl Fn(&str) -> Option<T>) -> impl Fn(&str) -> Option<Option<T>> {
    move |text| match text {
        "none" => Some(None),
        other => read(other).map(Some),
    }
}

/// The first address of a private /16.
pub(super) fn network(text: &str) -> Option<Ipv4Addr> {
    let base: Ipv4Addr = text.strip_suffix("/16")?.parse().ok()?;
    (base.to_bits().trailing_zeros() >= 16 && base.is_private()).then_some(base)
}

pub(super) fn dns(text: &str) -> Option<Dns> {
    let servers: Option<Vec<Ipv4Addr>> =
        text.split(',').map(|server| server.trim().parse().ok()).collect();
    servers.filter(|servers| (1..=3).contains(&servers.len())).map(Dns)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{dns, host, network, per_second, size_mib, time};

    #[test]
    fn sizes_and_times_need_a_unit_and_stay_in_range() {
        assert_eq!(size_mib("2GiB"), Some(2048));
        assert_eq!(size_mib("500 MiB"), Some(500));
        for text in ["2", "2GB", "-1GiB", "GiB", "99999999999999999999TiB", ""] {
            assert_eq!(size_mib(text), None, "{text}");
        }
        let minute = time(Duration::from_millis(1), Duration::from_secs(60));
        assert_eq!(minute("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(minute("1m"), Some(Duration::from_secs(60)));
        assert_eq!(minute("0m59s500ms"), Some(Duration::from_millis(59_500)));
        let wrong =
            ["2m", "0s", "1", "1.5s", "s", "", "1s2", "1 s", "-1s", "18446744073709551615h"];
        for text in wrong {
            assert_eq!(minute(text), None, "{text}");
        }
    }

    #[test]
    fn a_rate_is_a_number_and_a_unit_of_time() {
        for (text, rate) in [("20/s", 20.0), ("600/m", 10.0), ("3600/h", 1.0)] {
            assert_eq!(per_second(text), Some(rate), "{text}");
        }
        for text in ["", "20", "0/s", "-1/s", "1.5/s", "1/d", "1/ s", "2000000/s"] {
            assert_eq!(per_second(text), None, "{text}");
        }
    }

    #[test]
    fn a_network_is_a_private_one_of_the_one_size() {
        assert!(network("10.200.0.0/16").is_some() && network("192.168.0.0/16").is_some());
        let rows =
            ["10.200.1.0/16", "10.0.0.0/8", "10.0.0.0", "8.8.0.0/16", "fd00::/16", "172.32.0.0/16"];
        for text in rows {
            assert!(network(text).is_none(), "{text}");
        }
    }

    #[test]
    fn name_servers_are_one_to_three() {
        assert_eq!(dns("1.1.1.1, 8.8.8.8").map(|dns| dns.0.len()), Some(2));
        for text in ["", "1.1.1.1,", "1.1.1.1,1.1.1.1,1.1.1.1,1.1.1.1", "dns.example"] {
            assert!(dns(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_domain_is_a_host_name_with_or_without_a_port() {
        for text in ["localhost:3000", "sandboxes.example.org", "127.0.0.1.nip.io:80"] {
            assert!(host(text).is_some(), "{text}");
        }
        for text in ["", "a b", "http://x", "x:0", "x:99999", "x/y", ".x", "UPPER"] {
            assert!(host(text).is_none(), "{text}");
        }
    }
}
