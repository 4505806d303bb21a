// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that nobody means well by.

use std::io::{Read, Write};
use std::net::TcpStream;

use potluck_tests::program::Person;

use super::wire::{ask, connect, peak, read};

/// What a connection says to these bytes until it ends.
fn told(http: &str, bytes: &[u8]) -> Vec<u16> {
    let mut stream = connect(http);
    // The daemon may have closed it before all was sent.
    let _ = stream.write_all(bytes);
    let mut statuses = Vec::new();
    while let Some(answer) = read(&mut stream) {
        statuses.push(answer.status);
    }
    statuses
}

/// A request that is answered 404 if anybody hears it.
const NEXT: &str = "GET /gradle/5a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[test]
fn tricks_are_refused_and_nothing_after_them_is_heard() {
    let person = Person::at_home();
    let up = person.up(&[]);
    let http = up.http();
    let with = |line: &str, headers: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    let smuggled = format!("1\r\na\r\n0\r\n\r\n{NEXT}");
    let mut wrong = Vec::new();
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    for (what, request, statuses) in [
        (
            "two lengths",
            with("PUT /gradle/1", "Content-Length: 1\r\nContent-Length: 2\r\n") + "ab",
            &[400][..],
        ),
        (
            "length and chunks",
            with("PUT /gradle/1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + &smuggled,
            &[411],
        ),
        (
            "chunks and length",
            with("PUT /gradle/1", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + &smuggled,
            &[411],
        ),
        ("chunks", with("PUT /gradle/1", "Transfer-Encoding: chunked\r\n") + &smuggled, &[411]),
        ("odd coding", with("PUT /gradle/1", "Transfer-Encoding: xchunked\r\n") + &smuggled, &[400]),
        (
            "odd coding twice",
            with("PUT /gradle/1", "Transfer-Encoding: chunked, identity\r\n") + &smuggled,
            &[400],
        ),
        ("a negative length", with("PUT /gradle/1", "Content-Length: -1\r\n"), &[400]),
        ("a length with a sign", with("PUT /gradle/1", "Content-Length: +1\r\n") + "a", &[400]),
        ("a length in hexadecimal", with("PUT /gradle/1", "Content-Length: 0x1\r\n") + "a", &[400]),
        ("a huge length", with("PUT /gradle/1", "Content-Length: 999999999999999\r\n"), &[413]),
        (
            "more than any number",
            with("PUT /gradle/1", "Content-Length: 99999999999999999999999\r\n"),
            &[400],
        ),
        ("a space before the colon", with("PUT /gradle/1", "Content-Length : 1\r\n") + "a", &[400]),
        ("a folded header", with("GET /gradle/1", "X: y\r\n z\r\n"), &[400]),
        ("a zero in a header", with("GET /gradle/1", "X: \0\r\n"), &[400]),
        ("many headers", with("GET /gradle/1", &many), &[431]),
        ("a long header", with("GET /gradle/1", &format!("X: {}\r\n", "y".repeat(20_000))), &[431]),
        ("a long path", with(&format!("GET /gradle/{}", "a".repeat(2000)), ""), &[414]),
        ("a very long path", with(&format!("GET /gradle/{}", "a".repeat(70_000)), ""), &[431]),
        ("up and away", with("GET /gradle/../../etc/passwd", ""), &[400]),
        ("up in disguise", with("GET /gradle/%2e%2e%2fx", ""), &[400]),
        ("a backslash", with("GET /gradle/..\\x", ""), &[400]),
        ("an odd project", with("GET /gradle/@../x", ""), &[400]),
        ("a proxy", with("GET http://example.org/gradle/1", ""), &[400]),
        ("a tunnel", with("CONNECT example.org:80", ""), &[400]),
        ("another name", "GET /gradle/1 HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), &[421]),
        ("no name", "GET /gradle/1 HTTP/1.1\r\n\r\n".to_owned(), &[421]),
        ("two names", with("GET /gradle/1", "Host: localhost\r\n"), &[421]),
        ("a page", with("GET /gradle/1", "Origin: http://evil.example\r\n"), &[403]),
        ("a page without a name", with("GET /gradle/1", "Origin: null\r\n"), &[403]),
        ("an image of a page", with("GET /gradle/1", "Sec-Fetch-Site: cross-site\r\n"), &[403]),
        ("no such version", "GET /gradle/1 HTTP/3.0\r\nHost: localhost\r\n\r\n".to_owned(), &[400]),
        ("another protocol", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[]),
        ("nonsense", "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), &[400]),
    ] {
        let heard = told(&http, format!("{request}{NEXT}").as_bytes());
        if heard != statuses {
            wrong.push(format!("{what}: {heard:?} and not {statuses:?}"));
        }
        assert_eq!(told(&http, NEXT.as_bytes()), [404], "after {what}");
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(person.status()["published"], 0);
}

#[test]
fn bodies_that_are_promised_and_do_not_come_take_no_memory_and_leave_nothing() {
    let person = Person::at_home();
    let up = person.up(&[]);
    let http = up.http();
    let before = peak(&up);
    let slow = |number: usize| {
        let mut stream = connect(&http);
        let path = format!("/gradle/{number}");
        let head = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000000\r\n\r\n");
        // Gradle's values are smaller than that.
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut refused: Vec<TcpStream> = (0..100).map(slow).collect();
    refused.iter_mut().for_each(|stream| assert_eq!(read(stream).unwrap().status, 413));
    let half = |number: usize| {
        let mut stream = connect(&http);
        let head =
            format!("PUT /gradle/{number} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000000\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&[0x5a; 100_000]).unwrap();
        stream
    };
    let waiting: Vec<TcpStream> = (0..200).map(half).collect();
    // Others are served meanwhile.
    assert_eq!(ask(&mut connect(&http), "PUT /gradle/well", &[], b"meant").status, 201);
    assert_eq!(ask(&mut connect(&http), "GET /gradle/well", &[], b"").body, b"meant");
    let grown = peak(&up) - before;
    assert!(grown < 200 * (2 << 20), "{grown} bytes of memory for 200 who have sent 100 kB each");
    drop(waiting);
    assert_eq!(ask(&mut connect(&http), "GET /gradle/7", &[], b"").status, 404);
    assert_eq!(person.status()["published"], 1);
}

#[test]
fn whoever_sends_too_slowly_is_left() {
    let person = Person::at_home();
    let up = person.up(&[]);
    let mut stream = connect(&up.http());
    let head = "PUT /nx/v1/cache/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc";
    stream.write_all(head.as_bytes()).unwrap();
    // Nx is told nothing that fails its run, and the connection ends.
    assert_eq!(read(&mut stream).unwrap().status, 200);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(ask(&mut connect(&up.http()), "GET /nx/v1/cache/1", &[], b"").status, 404);
}

#[test]
fn six_hundred_connections_are_served_in_the_end() {
    let person = Person::at_home();
    let up = person.up(&[]);
    let http = up.http();
    let mut crowd: Vec<TcpStream> = (0..600).map(|_| connect(&http)).collect();
    crowd.iter_mut().for_each(|stream| stream.write_all(NEXT.as_bytes()).unwrap());
    // Those who are not served yet come in as the first ones go.
    for mut stream in crowd.drain(..) {
        assert_eq!(read(&mut stream).unwrap().status, 404);
    }
}
