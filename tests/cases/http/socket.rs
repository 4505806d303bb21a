// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ccache says to its helpers, byte by byte, and what nobody well-meaning says.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use potluck_node::front::http::map::ccache::DIALECT;
use potluck_node::front::http::socket::{GREETING, MAX_HEAD_BYTES};
use potluck_tests::program::Person;

use super::wire::{PATIENCE, ask, connect, peak};

const KEY: [u8; 20] = [0xab; 20];
const DONE: u8 = 0;
const NOT_DONE: u8 = 1;

fn open(path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, GREETING);
    stream
}

fn request(what: u8) -> Vec<u8> {
    [&[what, 20][..], &KEY].concat()
}

fn put(over: u8, length: u64, value: &[u8]) -> Vec<u8> {
    [&request(1)[..], &[over], &length.to_ne_bytes(), value].concat()
}

/// Says something and reads one byte.
#[track_caller]
fn told(stream: &mut UnixStream, said: &[u8]) -> u8 {
    stream.write_all(said).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    answer[0]
}

/// What is left to be read when the other side has ended it.
fn rest(mut stream: UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    all
}

#[track_caller]
fn got(stream: &mut UnixStream) -> Vec<u8> {
    assert_eq!(told(stream, &request(0)), DONE);
    let mut length = [0; 8];
    stream.read_exact(&mut length).unwrap();
    let mut value = vec![0; usize::try_from(u64::from_ne_bytes(length)).unwrap()];
    stream.read_exact(&mut value).unwrap();
    value
}

#[test]
fn values_are_kept_found_and_forgotten_as_by_http() {
    let person = Person::at_home();
    let up = person.up(&[]);
    let path = person.home().join("ccache.sock");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = open(&path);
    assert_eq!(told(&mut stream, &request(0)), NOT_DONE);
    assert_eq!(told(&mut stream, &request(5)), NOT_DONE);
    let value = vec![3; 5 << 20];
    assert_eq!(told(&mut stream, &put(1, value.len() as u64, &value)), DONE);
    assert_eq!(told(&mut stream, &request(5)), DONE);
    assert!(got(&mut stream) == value);
    assert_eq!(told(&mut stream, &put(0, 5, b"other")), NOT_DONE, "it is there already");
    assert!(got(&mut stream) == value);
    assert_eq!(told(&mut stream, &put(1, 5, b"other")), DONE);
    assert_eq!(got(&mut stream), b"other");
    let hex = "ab".repeat(20);
    let by_http =
        ask(&mut connect(&up.http()), &format!("GET /ccache/{}/{}", &hex[..2], &hex[2..]), &[], b"");
    assert_eq!((by_http.status, by_http.body), (200, b"other".to_vec()));
    assert_eq!(told(&mut stream, &request(2)), DONE);
    assert_eq!(told(&mut stream, &request(2)), NOT_DONE);
    assert_eq!(told(&mut stream, &request(0)), NOT_DONE);
    // Requests that come together, the last of them one at whose end it says who it is.
    let both = [&put(1, 3, b"one")[..], &request(5), &[4]].concat();
    assert_eq!(told(&mut stream, &both), DONE);
    assert_eq!(told(&mut stream, &[]), DONE);
    let length = told(&mut stream, &[]);
    let mut who = vec![0; usize::from(length) + 1];
    stream.read_exact(&mut who).unwrap();
    assert!(who.starts_with(b"potluck ") && who.ends_with(&[0]));
    // It serves others as well, and does not end for one.
    assert_eq!(told(&mut stream, &[3]), DONE);
    assert_eq!(rest(stream), b"");
    assert_eq!(got(&mut open(&path)), b"one");
    drop(up);
    assert!(!path.exists(), "it goes with the daemon");
}

#[test]
fn a_project_that_the_settings_name_has_a_socket_of_its_own() {
    let person = Person::at_home();
    let config = person.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[front.ccache]\nprojects = [\"acme/web\"]\n")).unwrap();
    let up = person.up(&[]);
    let mut acme = open(&person.home().join("ccache-acme~web.sock"));
    assert_eq!(told(&mut acme, &put(1, 4, b"acme")), DONE);
    assert_eq!(told(&mut open(&person.home().join("ccache.sock")), &request(0)), NOT_DONE);
    let path = format!("GET /ccache/@acme~web/{}", "ab".repeat(20));
    assert_eq!(ask(&mut connect(&up.http()), &path, &[], b"").body, b"acme");
}

#[test]
fn tricks_end_the_connection_and_cost_nothing() {
    let person = Person::at_home();
    let up = person.up(&[]);
    let path = person.home().join("ccache.sock");
    let before = peak(&up);
    let endless = |length: u64| put(1, length, &[0; 1000]);
    for (what, said) in [
        ("nothing that is known", vec![6; 100]),
        ("more than is ever kept", endless(DIALECT.most + 1)),
        ("more than there is", endless(u64::MAX)),
    ] {
        let mut stream = open(&path);
        // It may be closed before all was sent.
        let _ = stream.write_all(&said);
        assert_eq!(rest(stream), b"", "{what}");
    }
    // Half of a head, and half of a value: nothing of it is there afterwards.
    let whole = put(1, 1 << 20, &[0; 1 << 19]);
    for said in [&whole[..10], &whole[..MAX_HEAD_BYTES.min(25)], &whole] {
        let mut stream = open(&path);
        stream.write_all(said).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(rest(stream), b"");
        assert_eq!(told(&mut open(&path), &request(5)), NOT_DONE);
    }
    // Somebody who asks for much and takes nothing does not keep others from being served.
    let value = vec![1; 8 << 20];
    assert_eq!(told(&mut open(&path), &put(1, value.len() as u64, &value)), DONE);
    let mut greedy = open(&path);
    greedy.write_all(&request(0).repeat(100)).unwrap();
    assert!(got(&mut open(&path)) == value);
    assert!(peak(&up) < before + (128 << 20), "{before} {}", peak(&up));
}
