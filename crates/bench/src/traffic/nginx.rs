//! A plain nginx in front of the same server, as one would set it up for that.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Nginx {
    child: Child,
    pub address: SocketAddr,
    _scratch: tempfile::TempDir,
}

impl Nginx {
    pub(crate) fn start(upstream: SocketAddr) -> anyhow::Result<Self> {
        let scratch = tempfile::tempdir()?;
        // Free now, and at an address of those that begin with 127 that nobody else uses.
        let [.., high, low] = std::process::id().to_be_bytes();
        let own = Ipv4Addr::new(127, 97, high, low);
        let address = TcpListener::bind((own, 0))?.local_addr()?;
        let dir = scratch.path().display().to_string();
        fs::write(scratch.path().join("nginx.conf"), config(address, upstream, &dir))?;
        #[expect(clippy::disallowed_methods, reason = "the measure of a benchmark")]
        let child = Command::new("nginx")
            .args(["-e", "stderr", "-p", &dir, "-c", "nginx.conf"])
            .stdin(Stdio::null())
            .spawn()
            .context("nginx is not installed")?;
        let mut nginx = Self { child, address, _scratch: scratch };
        nginx.wait()?;
        Ok(nginx)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        // It listens before it has its workers.
        while TcpStream::connect(self.address).is_err() || self.processes()?.len() <= workers() {
            if let Some(status) = self.child.try_wait()? {
                bail!("nginx ended: {status}");
            }
            if began.elapsed() > START {
                bail!("nginx does not listen on {}", self.address);
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// It and its workers.
    pub(crate) fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let id = self.child.id();
        let workers = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let workers = workers.split_whitespace().map(str::parse);
        Ok(std::iter::once(Ok(id)).chain(workers).collect::<Result<_, _>>()?)
    }

    /// Has it end with its workers, and waits for that.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id())?;
        let pid = rustix::process::Pid::from_raw(pid).context("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // After `stop` there is nothing to signal: the child has been waited for.
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// As many as nginx would take by itself.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Kept connections to the server, upgrades passed on, no log, bodies not buffered to files.
fn config(address: SocketAddr, upstream: SocketAddr, dir: &str) -> String {
    let workers = workers();
    format!(
        "daemon off;\n\
         user root;\n\
         worker_processes {workers};\n\
         pid {dir}/nginx.pid;\n\
         error_log stderr crit;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off;\n\
           keepalive_requests 100000000;\n\
           client_body_temp_path {dir}/body;\n\
           proxy_temp_path {dir}/proxy;\n\
           fastcgi_temp_path {dir}/fastcgi;\n\
           uwsgi_temp_path {dir}/uwsgi;\n\
           scgi_temp_path {dir}/scgi;\n\
           upstream sandbox {{\n\
             server {upstream};\n\
             keepalive 256;\n\
             keepalive_requests 100000000;\n\
           }}\n\
           map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
           server {{\n\
             listen {address} backlog=4096;\n\
             location / {{\n\
               proxy_pass http://sandbox;\n\
               proxy_http_version 1.1;\n\
               proxy_set_header Host $http_host;\n\
               proxy_set_header Upgrade $http_upgrade;\n\
               proxy_set_header Connection $connection_upgrade;\n\
             }}\n\
           }}\n\
         }}\n"
    )
}
