//! Alone in its process, because it takes all its file descriptors.

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fs::File;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use bytes::Bytes;
    use edge::{Config, Edge, serve};
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::body::Incoming;
    use lifecycle::{Budget, TaskGroup};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio_util::sync::CancellationToken;
    use tracing::Span;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    async fn ask(client: &mut TcpStream) {
        client.write_all(REQUEST).await.unwrap();
        answer(client).await;
    }

    async fn answer(client: &mut TcpStream) {
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }

    #[tokio::test]
    async fn a_listener_without_file_descriptors_goes_on_when_there_are_some_again() {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: hard }).unwrap();
        let tasks = TaskGroup::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let api = tower::service_fn(async |_request: Request<Incoming>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let reserve = Duration::from_secs(60);
        let edge = Edge::new(Config { grace: Duration::ZERO, reserve, ..Config::default() });
        let stop = CancellationToken::new();
        let (told, served) = tokio::sync::oneshot::channel();
        let serving = serve(listener, edge, api, stop.clone());
        tasks.spawn(Span::none(), async move { told.send(serving.await).unwrap() });

        // It serves. This one stays open: the end of a connection would free a descriptor later on.
        let mut first = TcpStream::connect(addr).await.unwrap();
        ask(&mut first).await;

        let client = TcpSocket::new_v4().unwrap();
        let mut all = Vec::new();
        while let Ok(one) = File::open("/dev/null") {
            all.push(one);
        }
        let mut client = client.connect(addr).await.unwrap();
        client.write_all(REQUEST).await.unwrap();
        let starving = Budget::within(Duration::from_millis(100));
        starving.run("starve", client.readable()).await.unwrap_err();

        drop(all);
        answer(&mut client).await;
        drop(first);
        stop.cancel();
        served.await.unwrap().unwrap();
        tasks.close(Budget::within(Duration::from_secs(60))).await.unwrap();
    }
}
