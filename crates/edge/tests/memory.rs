//! Alone in its process, because it looks at the memory of the whole process.

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use bytes::Bytes;
    use edge::{BoxError, Config, Edge, serve};
    use futures::StreamExt as _;
    use http::{Request, Response};
    use http_body::{Body, Frame};
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use lifecycle::{Budget, TaskGroup};
    use node_wire::{Ingress, Route, Routes as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;
    use tracing::Span;

    const STREAM_BYTES: u64 = 200 * 1024 * 1024;
    const ALLOWED_KIB: u64 = 24 * 1024;

    /// The most memory this process ever had.
    fn peak_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn many_bytes() -> impl Body<Data = Bytes, Error = Infallible> + Send + 'static {
        static PIECE: [u8; 64 * 1024] = [7; 64 * 1024];
        let pieces = STREAM_BYTES / PIECE.len() as u64;
        StreamBody::new(
            futures::stream::iter(0..pieces).map(|_| Ok(Frame::data(Bytes::from_static(&PIECE)))),
        )
    }

    async fn count(body: Incoming) -> Result<u64, hyper::Error> {
        let mut data = body.into_data_stream();
        let mut count = 0;
        while let Some(piece) = data.next().await {
            count += piece?.len() as u64;
        }
        Ok(count)
    }

    /// Answers GET with many bytes, and POST with the number of bytes it was sent.
    async fn sandbox(listener: TcpListener) {
        while let Ok((socket, _peer)) = listener.accept().await {
            let service = service_fn(async |request: Request<Incoming>| {
                let body = if request.method() == http::Method::GET {
                    many_bytes().map_err(BoxError::from).boxed_unsync()
                } else {
                    let count = count(request.into_body()).await?;
                    Full::new(Bytes::from(count.to_string())).map_err(BoxError::from).boxed_unsync()
                };
                Ok::<_, hyper::Error>(Response::new(body))
            });
            let http = hyper::server::conn::http1::Builder::new();
            drop(http.serve_connection(TokioIo::new(socket), service).await);
        }
    }

    #[tokio::test]
    async fn memory_stays_flat_while_big_bodies_pass_both_ways() {
        let tasks = TaskGroup::default();
        let inside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let host = format!("{}-isandbox.localhost", inside.local_addr().unwrap().port());
        let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = outside.local_addr().unwrap();
        let reserve = Duration::from_secs(60);
        let edge = Edge::new(Config { grace: Duration::ZERO, reserve, ..Config::default() });
        let route = Route {
            sandbox: "isandbox".parse().unwrap(),
            lifecycle: "one".parse().unwrap(),
            addr: Ipv4Addr::LOCALHOST.into(),
        };
        edge.publish(route, Ingress::default());
        let end = tasks.stop_token().clone();
        tasks.spawn(Span::none(), async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = sandbox(inside) => {}
            }
        });
        let stop = CancellationToken::new();
        let api = tower::service_fn(async |_request: Request<Incoming>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let (told, served) = tokio::sync::oneshot::channel();
        let serving = serve(outside, edge, api, stop.clone());
        tasks.spawn(Span::none(), async move { told.send(serving.await).unwrap() });

        let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tasks.spawn(Span::none(), async move { drop(connection.await) });
        let request = |method: http::Method, body| {
            Request::builder().method(method).uri("/").header("host", &host).body(body).unwrap()
        };
        let empty = || Full::<Bytes>::default().boxed_unsync();

        // What one exchange needs at all is not what is measured.
        let warm = client.send_request(request(http::Method::POST, empty())).await.unwrap();
        assert_eq!(count(warm.into_body()).await.unwrap(), 1);
        let before = peak_kib();

        client.ready().await.unwrap();
        let down = client.send_request(request(http::Method::GET, empty())).await.unwrap();
        assert_eq!(count(down.into_body()).await.unwrap(), STREAM_BYTES);
        client.ready().await.unwrap();
        let up = request(http::Method::POST, many_bytes().boxed_unsync());
        let up = client.send_request(up).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(up.to_bytes(), STREAM_BYTES.to_string());

        let grown = peak_kib() - before;
        assert!(grown < ALLOWED_KIB, "{grown} KiB more for 2 x 200 MiB");
        drop(client);
        stop.cancel();
        served.await.unwrap().unwrap();
        tasks.close(Budget::within(Duration::from_secs(60))).await.unwrap();
    }
}
