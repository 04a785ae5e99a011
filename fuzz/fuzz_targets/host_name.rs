//! Names of hosts, and the two headers that say which sandbox a request is for.
#![no_main]

use e2b_wire::host_name::{SANDBOX_ID_HEADER, SANDBOX_PORT_HEADER, Target};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(Some(target)) = Target::from_host(text)
    {
        let name = target.host_name("example.com");
        assert_eq!(Target::from_host(&name), Ok(Some(target)), "{name}");
    }
    let mut headers = HeaderMap::new();
    for (number, line) in data.split(|byte| *byte == b'\n').take(4).enumerate() {
        let name = if number % 2 == 0 { SANDBOX_ID_HEADER } else { SANDBOX_PORT_HEADER };
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(name, value);
    }
    if let Ok(Some(target)) = Target::from_headers(&headers) {
        assert!(headers.len() == 2, "{headers:?}");
        assert_eq!(headers[SANDBOX_ID_HEADER], target.sandbox.as_str());
        assert_eq!(Target::from_host(&target.host_name("a.b")), Ok(Some(target)));
    }
});
