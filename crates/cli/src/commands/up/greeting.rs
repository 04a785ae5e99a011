use std::io::{self, IsTerminal};
use std::net::SocketAddr;

use crate::credentials::{Addresses, Credentials};
use crate::say;

/// Says that the service serves; to a person, also how to use it.
///
/// # Errors
/// Standard output is closed.
pub(super) fn greet(
    address: SocketAddr,
    credentials: &Credentials,
    addresses: &Addresses,
) -> io::Result<()> {
    say::answer(&format!("cofferdam: ready on http://{address}"))?;
    if io::stdout().is_terminal() {
        say::answer(&for_a_person(credentials, addresses))?;
    }
    Ok(())
}

fn for_a_person(credentials: &Credentials, addresses: &Addresses) -> String {
    format!(
        "
To use it from another terminal (also in {file}):

    export E2B_API_KEY={key}
    export E2B_API_URL={url}
    export E2B_SANDBOX_URL={url}

and, with `pip install e2b`, a first program:

    from e2b import Sandbox
    sandbox = Sandbox.create()
    print(sandbox.commands.run(\"uname -a\").stdout)
    sandbox.files.write(\"hello.txt\", \"hello\")
    sandbox.kill()

Ctrl-C ends all sandboxes and stops.",
        file = credentials.path.display(),
        key = credentials.api_key.expose(),
        url = addresses.url,
    )
}
