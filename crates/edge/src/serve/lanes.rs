//! The threads that client connections are served on.
//!
//! A request through the edge is two short pieces of work, each begun by a socket. Shared among the
//! threads of one runtime, most of the time would go into handing these pieces to each other. So
//! every connection stays on one thread with a reactor of its own, and so do the connections to
//! sandboxes that are made for it.

use std::fmt;
use std::io;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use lifecycle::{Budget, Expired};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

/// Connections that were given to a lane and not taken by it yet.
const QUEUE: usize = 64;

/// What a lane is given: it starts tasks there, and does not wait.
type Job = Box<dyn FnOnce(TcpStream, Place) + Send>;

#[derive(Debug)]
pub(super) struct Lanes {
    all: Vec<Lane>,
}

struct Lane {
    jobs: mpsc::Sender<(std::net::TcpStream, Place, Job)>,
    open: Arc<AtomicUsize>,
    /// Its thread has ended.
    ended: oneshot::Receiver<()>,
}

/// One connection of a lane; dropped when that ends.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Lanes {
    /// # Errors
    /// A thread or its reactor could not be had.
    pub(super) fn start(count: NonZero<usize>) -> io::Result<Self> {
        let all = (0..count.get()).map(|_| Lane::start()).collect::<io::Result<_>>()?;
        Ok(Self { all })
    }

    /// Has `job` run with `socket` on the lane that has the fewest connections.
    ///
    /// Cancel safety: yes; the socket is closed then.
    ///
    /// # Errors
    /// The socket cannot be moved, or the lane has ended.
    pub(super) async fn run(
        &self,
        socket: TcpStream,
        job: impl FnOnce(TcpStream, Place) + Send + 'static,
    ) -> io::Result<()> {
        let lane = self.all.iter().min_by_key(|lane| lane.open.load(Ordering::Relaxed));
        let Some(lane) = lane else { return Err(io::ErrorKind::NotFound.into()) };
        lane.open.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&lane.open));
        let job = (socket.into_std()?, place, Box::new(job) as Job);
        lane.jobs.send(job).await.map_err(|_ended| io::ErrorKind::BrokenPipe.into())
    }

    /// Waits for the threads; to be called when their tasks have ended.
    ///
    /// # Errors
    /// [`Expired`] when one is still there at the end of `budget`.
    pub(super) async fn close(self, budget: Budget) -> Result<(), Expired> {
        for Lane { jobs, ended, .. } in self.all {
            drop(jobs);
            // The sender is dropped at the end of the thread, whatever that was like.
            drop(budget.run("close a lane", ended).await?);
        }
        Ok(())
    }
}

impl Lane {
    fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (jobs, mut given) = mpsc::channel::<(std::net::TcpStream, Place, Job)>(QUEUE);
        let (alive, ended) = oneshot::channel::<()>();
        let open = Arc::new(AtomicUsize::new(0));
        let work = async move {
            while let Some((socket, place, job)) = given.recv().await {
                match TcpStream::from_std(socket) {
                    Ok(socket) => job(socket, place),
                    Err(error) => {
                        warn!(error = %observe::chain(&error), "client connection not served");
                    }
                }
            }
        };
        std::thread::Builder::new().name("edge".to_owned()).spawn(move || {
            let _alive = alive;
            runtime.block_on(work);
        })?;
        Ok(Self { jobs, open, ended })
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A future that runs on a lane and starts its tasks where `home` is: what a client has begun must
/// not end with the listener.
#[derive(Debug)]
pub(crate) struct AtHome<F> {
    home: Handle,
    future: Pin<Box<F>>,
}

impl<F> AtHome<F> {
    pub(crate) fn new(home: Handle, future: F) -> Self {
        Self { home, future: Box::pin(future) }
    }
}

impl<F: Future> Future for AtHome<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let home = self.home.clone();
        let _here = home.enter();
        self.future.as_mut().poll(cx)
    }
}
