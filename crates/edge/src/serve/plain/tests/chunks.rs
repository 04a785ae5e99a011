use crate::serve::plain::check::read_chunks;
use crate::serve::plain::chunks::{Broken, Chunks, write_chunk};

/// What a client gets of `bytes` in these pieces, and how many of them were the body's.
fn pass(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), Broken> {
    let (mut chunks, mut out, mut ours) = (Chunks::new(), Vec::new(), 0);
    for piece in pieces {
        ours += chunks.pass(piece, &mut out)?;
    }
    Ok((out, ours, chunks.is_done()))
}

#[track_caller]
fn data(out: &[u8]) -> Vec<u8> {
    let (data, end) = read_chunks(out);
    assert_eq!(end, Some(out.len()), "{}", out.escape_ascii());
    data
}

#[test]
fn a_body_is_the_same_wherever_it_is_cut_and_ends_where_it_ends() {
    let body = b"5\r\nhello\r\n00a;name=\"a b\";x\r\n\r\n0\r\n\r\n0\r\n\r\n1 \t\r\n!\r\n\
        0;last\r\nX-Trailer: 1\r\n folded\r\n\r\n";
    let wanted = b"hello\r\n0\r\n\r\n0\r\n!";
    for after in [&b""[..], b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n"] {
        let all = [&body[..], after].concat();
        for cut in 0..=all.len() {
            let (first, second) = all.split_at(cut);
            let (out, ours, done) = pass(&[first, second]).unwrap();
            assert!(done);
            assert_eq!((data(&out).as_slice(), ours), (&wanted[..], body.len()), "{cut}");
        }
        let single: Vec<_> = all.chunks(1).collect();
        let (out, ours, done) = pass(&single).unwrap();
        assert_eq!((data(&out).as_slice(), ours, done), (&wanted[..], body.len(), true));
    }
}

#[test]
fn nothing_but_data_reaches_the_client() {
    let (out, ..) = pass(&[b"000002;secret=1\r\nab\r\n0;x\r\nSet-Cookie: a\r\n\r\n"]).unwrap();
    assert_eq!(out.escape_ascii().to_string(), "2\\r\\nab\\r\\n0\\r\\n\\r\\n");
    let mut out = Vec::new();
    write_chunk(b"", &mut out);
    assert_eq!(out, b"", "that would be the last one");
}

#[test]
fn a_body_without_its_end_is_not_done() {
    let body = b"2\r\nab\r\n0\r\nX: 1\r\n\r\n";
    for cut in 0..body.len() {
        let (out, ours, done) = pass(&[body.split_at(cut).0]).unwrap();
        assert_eq!((ours, done), (cut, false), "{cut}");
        assert_eq!(read_chunks(&out).1, None, "{cut}");
    }
    assert!(pass(&[body]).unwrap().2);
}

#[test]
fn what_others_might_read_otherwise_is_no_body() {
    for bytes in [
        // Ends of lines.
        "2\nab\r\n0\r\n\r\n",
        "2\r\nab\n0\r\n\r\n",
        "2\r\nab\r\n0\n\r\n",
        "2\r\nab\r\n0\r\n\n",
        "2\r\r\nab\r\n0\r\n\r\n",
        "2\r\nab\r\r\n",
        "2;a\nb\r\nab\r\n",
        "2;a\rb\r\nab\r\n",
        "2;a\0\r\nab\r\n",
        "0\r\nX: 1\n\r\n",
        "0\r\nX: 1\r\r\n",
        "0\r\nX: \x7f\r\n\r\n",
        // Data that goes on, or is not all there.
        "2\r\nabc\r\n",
        "2\r\nab0\r\n\r\n",
        "2\r\na\r\n0\r\n\r\n",
        // Sizes.
        "\r\nab\r\n",
        ";a\r\n",
        " 2\r\nab\r\n",
        "+2\r\nab\r\n",
        "-2\r\nab\r\n",
        "0x2\r\nab\r\n",
        "2h\r\nab\r\n",
        "2_\r\nab\r\n",
        "2,2\r\nab\r\n",
        "2 2\r\nab\r\n",
        "\u{662}\r\nab\r\n",
        "g\r\n",
        "00000000000000002\r\nab\r\n",
        "10000000000000002\r\nab\r\n",
    ] {
        assert_eq!(pass(&[bytes.as_bytes()]), Err(Broken), "{}", bytes.escape_debug());
        let single: Vec<_> = bytes.as_bytes().chunks(1).collect();
        assert_eq!(pass(&single), Err(Broken), "{}", bytes.escape_debug());
    }
}

#[test]
fn a_chunk_may_have_any_size_of_sixteen_digits() {
    for size in ["0000000000000002", "2", "02"] {
        let (out, ..) = pass(&[format!("{size}\r\nab\r\n0\r\n\r\n").as_bytes()]).unwrap();
        assert_eq!(data(&out), b"ab");
    }
    let (out, ours, done) = pass(&[b"FFFFffffFFFFffff\r\n", b"ab", b"c"]).unwrap();
    assert_eq!((ours, done), (21, false));
    assert_eq!(out.escape_ascii().to_string(), "2\\r\\nab\\r\\n1\\r\\nc\\r\\n");
}

#[test]
fn what_nobody_looks_at_has_a_limit_over_all_of_a_body() {
    const LIMIT: usize = 16 * 1024;
    let beside = |bytes: usize| {
        let extensions = format!("1;{}\r\nx\r\n", "e".repeat(bytes / 2));
        let trailer = format!("0\r\n{}\r\n\r\n", "t".repeat(bytes - bytes / 2));
        pass(&[(extensions + &trailer).as_bytes()])
    };
    assert!(beside(LIMIT).unwrap().2);
    assert_eq!(beside(LIMIT + 1), Err(Broken));
    let many = "1;e\r\nx\r\n".repeat(LIMIT + 1);
    assert_eq!(pass(&[many.as_bytes()]), Err(Broken));
    // Data has none.
    let plain = "1\r\nx\r\n".repeat(2 * LIMIT);
    assert!(!pass(&[plain.as_bytes()]).unwrap().2);
}
