//! Questions to name servers, with one that only says what it is told to.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use lifecycle::{Budget, Release};
use model::Egress;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::kit::{Here, LIMIT, inlets};
use super::names;
use crate::question::sized;
use crate::question::testing::{A, answered, asks, with_options};
use crate::resolve::tests::one_port_of_both;
use crate::{Node, Proxy, QUESTIONS_MAX, Resolver};

/// A sandbox's way to its name server.
struct Names {
    proxy: Proxy,
    at: [SocketAddr; 2],
    packets: UdpSocket,
    streams: TcpListener,
}

/// Rules by which `domains` are asked for, here.
fn asked(domains: &[&str]) -> Egress {
    Egress { name_servers: Some(vec![Ipv4Addr::LOCALHOST]), ..names(domains) }
}

impl Names {
    async fn new(egress: Egress) -> Self {
        let (packets, streams) = one_port_of_both().await;
        let SocketAddr::V4(server) = packets.local_addr().unwrap() else { panic!("of IPv6") };
        let node = Node::closed_to(Resolver::new(&[]), Vec::new(), server.port());
        let (inlets, at) = inlets();
        let sockets = Arc::new(Here(SocketAddrV4::new(*server.ip(), server.port())));
        let proxy = Proxy::start("l1", inlets, sockets, Arc::new(node), egress).unwrap();
        Self { proxy, at, packets, streams }
    }

    async fn program(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.at[1]).await.unwrap();
        socket
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at[0]).await.unwrap()
    }

    /// Answers one packet with `text`, and returns it.
    async fn answer(&self, text: &str) -> Vec<u8> {
        let (question, from) = receive_from(&self.packets).await;
        self.packets.send_to(&answered(&question, text), from).await.unwrap();
        question
    }

    fn nobody_asked(&self) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let nothing = self.packets.try_recv_from(&mut [0]).unwrap_err();
        nothing.kind() == ErrorKind::WouldBlock && self.streams.poll_accept(&mut cx).is_pending()
    }

    async fn close(self) {
        self.proxy.release(Budget::within(LIMIT)).await.unwrap();
    }
}

async fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut packet = vec![0; 65_536];
    let received = Budget::within(LIMIT).run("packet", socket.recv_from(&mut packet)).await;
    let (len, from) = received.unwrap().unwrap();
    packet.truncate(len);
    (packet, from)
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    receive_from(socket).await.0
}

async fn read(stream: &mut TcpStream) -> Vec<u8> {
    let read = async {
        let len = stream.read_u16().await.unwrap();
        let mut message = vec![0; usize::from(len)];
        stream.read_exact(&mut message).await.unwrap();
        message
    };
    Budget::within(LIMIT).run("message", read).await.unwrap()
}

async fn write(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&sized(message)).await.unwrap();
}

fn code(answer: &[u8]) -> u8 {
    answer[3] & 0x0f
}

#[tokio::test]
async fn a_name_that_is_allowed_is_asked_for_and_the_answer_is_given_back_as_it_is() {
    let world = Names::new(asked(&["a.com", "*.b.com"])).await;
    let program = world.program().await;
    for (name, kind) in [("a.com", A), ("A.cOm", 28), ("x.y.b.com", 16), ("_s._tcp.b.com", 33)] {
        let question = with_options(asks(0xabcd, name, kind), b"\0\x0a\0\x08cookies!");
        program.send(&question).await.unwrap();
        assert_eq!(world.answer("whatever it is").await, question);
        assert_eq!(receive(&program).await, answered(&question, "whatever it is"));
    }
    // One that did not fit, for which the program comes again by itself.
    let mut question = asks(1, "a.com", A);
    program.send(&question).await.unwrap();
    let (_, from) = receive_from(&world.packets).await;
    question[2] |= 0x82;
    world.packets.send_to(&question, from).await.unwrap();
    assert_eq!(receive(&program).await, question);
    world.close().await;
}

#[tokio::test]
async fn no_other_name_comes_to_a_server() {
    let world = Names::new(asked(&["a.com", "*.b.com"])).await;
    let program = world.program().await;
    let mut stream = world.connect().await;
    for name in ["secret.a.com", "b.com", "evil.com", "a.com.evil.com", "x\\b.com", "4.3.2.1"] {
        let question = with_options(asks(7, name, A), b"");
        program.send(&question).await.unwrap();
        write(&mut stream, &question).await;
        for answer in [receive(&program).await, read(&mut stream).await] {
            assert_eq!((code(&answer), &answer[..2]), (3, &question[..2]), "{name}");
            assert!(answer.ends_with(b"the network rules of this sandbox do not allow this name"));
        }
    }
    assert!(world.nobody_asked());
    world.close().await;
}

#[tokio::test]
async fn what_is_no_question_ends_here() {
    let world = Names::new(asked(&["a.com"])).await;
    let program = world.program().await;
    let good = asks(7, "a.com", A);
    let mut two = good.clone();
    two[5] = 2;
    two.extend(&good[12..]);
    let hidden = [&good[..], b"secret"].concat();
    let large = with_options(good.clone(), &[7; 5000]);
    for odd in [&two, &hidden, &large] {
        program.send(odd).await.unwrap();
        assert_eq!(code(&receive(&program).await), 1);
    }
    for noise in [&b"x"[..], b"", &answered(&good, ""), &good[..11]] {
        program.send(noise).await.unwrap();
    }
    program.send(&asks(8, "b.com", A)).await.unwrap();
    assert_eq!(receive(&program).await[1], 8, "nothing is said to noise");
    for broken in [sized(&large), sized(&answered(&good, "")), sized(b""), b"\0\x40x".to_vec()] {
        let mut stream = world.connect().await;
        // It may be broken off before all of it is there.
        drop(stream.write_all(&broken).await);
        drop(stream.shutdown().await);
        let mut said = Vec::new();
        let ended = Budget::within(LIMIT).run("the end", stream.read_to_end(&mut said)).await;
        drop(ended.unwrap());
        assert_eq!(said, b"");
    }
    assert!(world.nobody_asked());
    world.close().await;
}

#[tokio::test]
async fn a_connection_carries_many_questions_and_long_answers() {
    let world = Names::new(asked(&["a.com"])).await;
    let mut program = world.connect().await;
    for text in ["first".to_owned(), "x".repeat(60_000)] {
        let question = asks(9, "A.com", 16);
        write(&mut program, &question).await;
        write(&mut program, &asks(10, "b.com", A)).await;
        let (mut server, _) = world.streams.accept().await.unwrap();
        assert_eq!(read(&mut server).await, question);
        write(&mut server, &answered(&question, &text)).await;
        assert_eq!(read(&mut program).await, answered(&question, &text));
        assert_eq!(code(&read(&mut program).await), 3);
    }
    program.shutdown().await.unwrap();
    assert_eq!(program.read(&mut [0]).await.unwrap(), 0);
    assert!(world.nobody_asked());
    world.close().await;
}

#[tokio::test]
async fn an_answer_that_no_packet_should_have_is_to_be_had_in_a_stream() {
    let world = Names::new(asked(&["a.com"])).await;
    let program = world.program().await;
    let question = asks(9, "a.com", A);
    for (len, is_whole) in [(4096 - question.len(), true), (4097 - question.len(), false)] {
        program.send(&question).await.unwrap();
        world.answer(&"x".repeat(len)).await;
        let answer = receive(&program).await;
        assert_eq!((answer.len() == 4096, answer[2] & 2 == 0), (is_whole, is_whole));
    }
    world.close().await;
}

#[tokio::test]
async fn strangers_are_not_heard_and_a_server_that_is_not_there_makes_room_for_the_next() {
    let nobody = Ipv4Addr::new(127, 0, 0, 99);
    let servers = Some(vec![nobody, Ipv4Addr::LOCALHOST]);
    let world = Names::new(Egress { name_servers: servers, ..names(&["a.com"]) }).await;
    let program = world.program().await;
    let question = asks(9, "a.com", A);
    program.send(&question).await.unwrap();
    let (_, from) = receive_from(&world.packets).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(&answered(&question, "wrong"), from).await.unwrap();
    world.packets.send_to(&answered(&asks(8, "a.com", A), "wrong"), from).await.unwrap();
    world.packets.send_to(&answered(&question, "right"), from).await.unwrap();
    assert!(receive(&program).await.ends_with(b"right"));
    world.proxy.set_rules(Egress { name_servers: Some(vec![nobody]), ..names(&["a.com"]) });
    program.send(&question).await.unwrap();
    assert_eq!(code(&receive(&program).await), 2, "at once");
    world.proxy.set_rules(names(&["a.com"]));
    program.send(&question).await.unwrap();
    assert_eq!(code(&receive(&program).await), 2);
    world.close().await;
}

#[tokio::test]
async fn other_rules_are_in_force_for_the_next_question() {
    let world = Names::new(asked(&["a.com"])).await;
    let program = world.program().await;
    let mut stream = world.connect().await;
    for allowed in [false, true, false] {
        world.proxy.set_rules(asked(if allowed { &["b.com"] } else { &["a.com"] }));
        let question = asks(9, "b.com", A);
        program.send(&question).await.unwrap();
        write(&mut stream, &question).await;
        if allowed {
            world.answer("x").await;
            let (mut server, _) = world.streams.accept().await.unwrap();
            let asked = read(&mut server).await;
            write(&mut server, &answered(&asked, "x")).await;
        }
        let codes = [code(&receive(&program).await), code(&read(&mut stream).await)];
        assert_eq!(codes, if allowed { [0, 0] } else { [3, 3] });
    }
    // Nobody is asked through here any more.
    world.proxy.set_rules(names(&["b.com"]));
    write(&mut stream, &asks(9, "b.com", A)).await;
    stream.read_u16().await.unwrap_err();
    assert!(world.nobody_asked());
    world.close().await;
}

#[tokio::test]
async fn at_the_limit_questions_fail_at_once_and_names_that_are_not_allowed_do_not_count() {
    let world = Names::new(asked(&["a.com"])).await;
    let program = world.program().await;
    let id = |at: usize| u16::try_from(at).unwrap();
    for at in 0..QUESTIONS_MAX {
        program.send(&asks(id(at), "a.com", A)).await.unwrap();
        // Each has come before the next is sent: none is lost for want of room in a socket.
        program.send(&asks(id(at), "b.com", A)).await.unwrap();
        assert_eq!(code(&receive(&program).await), 3);
    }
    program.send(&asks(999, "a.com", A)).await.unwrap();
    assert_eq!(code(&receive(&program).await), 2);
    for _ in 0..QUESTIONS_MAX {
        world.answer("x").await;
        receive(&program).await;
    }
    program.send(&asks(7, "a.com", A)).await.unwrap();
    world.answer("x").await;
    assert_eq!(code(&receive(&program).await), 0, "there is room again");
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn servers_that_are_silent_are_not_waited_for_longer_than_programs_wait() {
    let servers = Some(vec![Ipv4Addr::LOCALHOST; 3]);
    let world = Names::new(Egress { name_servers: servers, ..names(&["a.com"]) }).await;
    let program = world.program().await;
    let began = tokio::time::Instant::now();
    program.send(&asks(7, "a.com", A)).await.unwrap();
    let mut packet = [0; 512];
    program.recv(&mut packet).await.unwrap();
    assert_eq!(code(&packet), 2);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for _ in 0..3 {
        receive(&world.packets).await;
    }
    world.close().await;
}

#[tokio::test]
async fn closing_ends_what_is_asked_and_lets_go_of_every_socket() {
    let world = Names::new(asked(&["a.com"])).await;
    let program = world.program().await;
    program.send(&asks(7, "a.com", A)).await.unwrap();
    receive(&world.packets).await;
    let mut stream = world.connect().await;
    write(&mut stream, &asks(7, "a.com", A)).await;
    let (mut server, _) = world.streams.accept().await.unwrap();
    read(&mut server).await;
    for _ in 0..2 {
        world.proxy.release(Budget::within(LIMIT)).await.unwrap();
    }
    stream.read_u8().await.unwrap_err();
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    UdpSocket::bind(world.at[1]).await.unwrap();
}
