//! What users write into network rules. A line each: a range, a pattern, a name, a proxy.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use model::{DomainPattern, Egress, HostName, Ipv4Range, SocksProxy};

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let mut next = || lines.next().unwrap_or_default();
    let range = next().parse::<Ipv4Range>();
    let pattern = next().parse::<DomainPattern>();
    let name = next().parse::<HostName>();
    let (proxy, user, password) = (next(), next(), next());
    if let Ok(range) = &range {
        assert_eq!(range.to_string().parse().as_ref(), Ok(range));
        assert!(range.contains(*range) && Ipv4Range::ALL.contains(*range));
        let last =
            range.first().to_bits() | u32::MAX.checked_shr(range.prefix_len().into()).unwrap_or(0);
        let denied = Egress { deny: vec![*range], ..Egress::default() };
        assert!(!denied.permits(range.first()) && !denied.permits(Ipv4Addr::from_bits(last)));
        let both = Egress { allow: vec![*range], ..denied };
        assert!(both.permits(range.first()) && both.denied().next().is_none());
    }
    if let Ok(name) = &name {
        assert_eq!(name.to_string().parse().as_ref(), Ok(name));
        assert!(name.as_str().parse::<Ipv4Addr>().is_err(), "{name}");
    }
    if let Ok(pattern) = &pattern {
        assert_eq!(pattern.to_string().parse().as_ref(), Ok(pattern));
    }
    if let (Ok(pattern), Ok(name)) = (&pattern, &name)
        && pattern.matches(name)
    {
        let end = pattern.to_string();
        assert!(name.as_str().ends_with(end.trim_start_matches('*')), "{pattern}, {name}");
    }
    let user = (!user.is_empty()).then(|| user.to_owned());
    let password = (!password.is_empty()).then(|| model::Secret::new(password.to_owned()));
    if let Err(error) = SocksProxy::new(proxy, user, password) {
        assert!(!error.to_string().is_empty());
    }
});
