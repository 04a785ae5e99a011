//! One connection of a program, from its beginning to its end.

use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lifecycle::Budget;
use model::{Egress, HostName, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::decision::{Look, OnlyPermitted, Rules, Target};
use crate::intercept::Offer;
use crate::line::{Cut, Line};
use crate::opening::{OPENING_MAX, Opening};
use crate::outside::{self, Outside};
use crate::proxy::Shared;
use crate::{Refusal, http, https};

/// A connection that only its name can let through has this long to tell it.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// One that goes by its address if it has no name is asked for that long: where the server speaks
/// first, there is none to come.
const OPENING_MOMENT: Duration = Duration::from_millis(300);

/// What a connection is allowed as.
#[derive(Debug, Clone)]
pub(crate) struct Allowed {
    pub(crate) origin: SocketAddrV4,
    pub(crate) scheme: Scheme,
    pub(crate) name: Option<HostName>,
    pub(crate) target: Target,
    pub(crate) egress: Arc<Egress>,
}

impl Allowed {
    /// Whether it would be the same by other rules.
    fn holds_by(&self, now: Rules<'_>) -> bool {
        let then = Rules { egress: &self.egress, ..now };
        let (origin, name) = (self.origin, self.name.as_ref());
        let same_way = now.egress.proxy == self.egress.proxy;
        let same_look = now.egress.headers.is_empty() == self.egress.headers.is_empty();
        // One that goes through untouched could not be given headers now, and the other way round.
        let is_intercepted = |rules: Rules<'_>| {
            self.scheme == Scheme::Https && name.is_some_and(|name| rules.intercepts(name))
        };
        same_way
            && same_look
            && self.reaches_the_same_by(now.egress)
            && is_intercepted(now) == is_intercepted(then)
            && now.decide(origin, self.scheme, name).is_ok_and(|target| target == self.target)
    }

    /// Whether by the rules of `now` it could not be another of a name's addresses that is reached,
    /// where they have a say in that.
    pub(crate) fn reaches_the_same_by(&self, now: &Egress) -> bool {
        let Target::Name { only_permitted: OnlyPermitted(true), .. } = self.target else {
            return true;
        };
        (&now.allow, &now.deny) == (&self.egress.allow, &self.egress.deny)
    }
}

impl Shared {
    /// Carries one connection from its beginning to its end.
    pub(crate) async fn carry(
        self: &Arc<Self>,
        line: Line,
        cut: Cut,
        stop: &CancellationToken,
    ) -> Result<(), Refusal> {
        let origin = self.dialer.sockets.origin(line.stream().as_fd());
        let origin = origin.map_err(|_error| Refusal::Request("its destination is not known"))?;
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                cut.reset_on_drop();
                Ok(())
            }
            carried = self.carry_on(line, cut.clone(), origin) => carried,
        }
    }

    async fn carry_on(
        self: &Arc<Self>,
        mut line: Line,
        cut: Cut,
        origin: SocketAddrV4,
    ) -> Result<(), Refusal> {
        if self.is_name_server(origin) {
            return self.answer_stream(line, origin).await;
        }
        let egress = self.egress();
        let rules = self.rules(&egress);
        let look = rules.look(origin);
        let (mut opening, mut begun) = read_opening(&mut line, look).await;
        let mut dialled = None;
        if look == Look::Shortly && begun.is_empty() {
            let Some((target, server)) = self.wait_for_a_word(&line, origin, &egress).await? else {
                cut.reset_on_drop();
                return Ok(());
            };
            (opening, begun) = read_ready(&mut line).await;
            dialled = Some((target, server));
        }
        let begun = begun.freeze();
        match &opening {
            Opening::Http(_) if rules.look_at_each(origin) => {
                drop(dialled);
                line.read_again(begun);
                return http::serve(Arc::clone(self), line, cut, origin).await;
            }
            Opening::Tls(Some(name)) if rules.intercepts(name) => {
                let offer = Offer::read(&begun);
                if offer != Offer::Foreign {
                    drop(dialled);
                    line.read_again(begun);
                    let hello = https::Hello { origin, name: name.clone(), offer };
                    return https::serve(Arc::clone(self), line, cut, hello).await;
                }
            }
            _ => {}
        }
        let (scheme, name) = (opening.scheme(), opening.name());
        let target = rules.decide(origin, scheme, name)?;
        let server = match dialled {
            Some((known, server)) if known == target => server,
            _ => self.dialer.dial(rules, &target).await?,
        };
        let name = name.cloned();
        let allowed = Allowed { origin, scheme, name, target, egress: Arc::clone(&egress) };
        self.pass_on(line, cut, server, begun, allowed).await;
        Ok(())
    }

    /// Connects a program that says nothing to where its address leads, and waits until one of the
    /// two has something to say: a server that speaks first is no server of HTTP. `None` when the
    /// rules have changed.
    async fn wait_for_a_word(
        &self,
        line: &Line,
        origin: SocketAddrV4,
        egress: &Arc<Egress>,
    ) -> Result<Option<(Target, Outside)>, Refusal> {
        let rules = self.rules(egress);
        let scheme = Scheme::Http;
        let target = rules.decide(origin, scheme, None)?;
        let mut server = self.dialer.dial(rules, &target).await?;
        let egress = Arc::clone(egress);
        let allowed = Allowed { origin, scheme, name: None, target: target.clone(), egress };
        tokio::select! {
            biased;
            () = self.wait_for_change(|| Some(allowed.clone())) => return Ok(None),
            // A broken one is found to be so by who reads from it.
            _ready = line.stream().readable() => {}
            _ready = outside::readable(&mut server) => {}
        }
        Ok(Some((target, server)))
    }

    /// Carries on what has `begun`, as it is, until one end breaks it off or the rules change.
    async fn pass_on(
        &self,
        mut line: Line,
        cut: Cut,
        mut server: Outside,
        begun: Bytes,
        allowed: Allowed,
    ) {
        let both = async {
            server.write_all(&begun).await?;
            // In TLS what is written waits to be sent.
            server.flush().await?;
            tokio::io::copy_bidirectional(&mut line, &mut server).await
        };
        tokio::select! {
            biased;
            () = self.wait_for_change(|| Some(allowed.clone())) => cut.reset_on_drop(),
            ended = both => if let Err(error) = ended {
                // One end has broken it off: so is the other told.
                tracing::trace!(%error, "a connection to the outside is broken");
                cut.reset_on_drop();
            },
        }
    }

    /// Waits until the rules are such that what is `allowed` then would not be any more.
    pub(crate) async fn wait_for_change(&self, allowed: impl Fn() -> Option<Allowed>) {
        let mut egress = self.egress.subscribe();
        loop {
            let now = Arc::clone(&egress.borrow_and_update());
            if allowed().is_some_and(|allowed| !allowed.holds_by(self.rules(&now))) {
                return;
            }
            if egress.changed().await.is_err() {
                // Nobody changes them any more.
                return std::future::pending().await;
            }
        }
    }
}

/// Reads as much of the beginning of `line` as there is to know about it.
async fn read_opening(line: &mut Line, look: Look) -> (Opening, BytesMut) {
    let limit = match look {
        Look::No => return (Opening::Other, BytesMut::new()),
        Look::Shortly => OPENING_MOMENT,
        Look::Needed => OPENING_LIMIT,
    };
    // Whoever has begun to speak is heard out: only silence may mean that the server is to begin.
    let first =
        Budget::within(limit).run("the beginning of a connection", line.stream().readable());
    match first.await {
        Ok(_ready) => read_begun(line).await,
        Err(_silent) => (Opening::Other, BytesMut::new()),
    }
}

/// As [`read_opening`], of what is there already, if anything is.
async fn read_ready(line: &mut Line) -> (Opening, BytesMut) {
    match Budget::within(Duration::ZERO).run("a word", line.stream().readable()).await {
        Ok(_ready) => read_begun(line).await,
        Err(_silent) => (Opening::Other, BytesMut::new()),
    }
}

async fn read_begun(line: &mut Line) -> (Opening, BytesMut) {
    let mut begun = BytesMut::new();
    let read = async {
        loop {
            let room = OPENING_MAX.saturating_sub(begun.len());
            let len = (&mut *line)
                .take(u64::try_from(room).unwrap_or_default())
                .read_buf(&mut begun)
                .await;
            if let Some(opening) = Opening::read(&begun) {
                return opening;
            }
            if !len.is_ok_and(|len| len > 0) {
                return Opening::Other;
            }
        }
    };
    let opening = Budget::within(OPENING_LIMIT).run("the beginning of a connection", read).await;
    (opening.unwrap_or(Opening::Other), begun)
}
