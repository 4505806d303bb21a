// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each tool sends, as it was recorded, and what it is answered; large values, and the sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use potluck_tests::program::{Person, Up};

/// Longest wait for anything: a test that takes as long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let of = |line: &'_ str| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        self.head
            .lines()
            .find(|line| of(line).is_some())
            .and_then(|line| Some(line.split_once(':')?.1.trim()))
    }
}

/// Connects to where a daemon serves tools.
pub(super) fn connect(http: &str) -> TcpStream {
    let stream = TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The head of the next answer, to the empty line; nothing when the connection has ended.
pub(super) fn head(stream: &mut impl Read) -> Option<(u16, String)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8(head).unwrap();
    Some((head.split(' ').nth(1)?.parse().unwrap(), head))
}

/// The next answer to something other than HEAD.
pub(super) fn read(stream: &mut impl Read) -> Option<Answer> {
    let (status, head) = head(stream)?;
    let mut answer = Answer { status, head, body: Vec::new() };
    let length = answer.header("content-length").map_or(0, |length| length.parse::<usize>().unwrap());
    if status != 304 && status >= 200 {
        answer.body = vec![0; length];
        stream.read_exact(&mut answer.body).ok()?;
    }
    Some(answer)
}

/// Sends a request as a tool would, and reads the answer.
#[track_caller]
pub(super) fn ask(stream: &mut (impl Read + Write), line: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n");
    headers.iter().for_each(|header| request += &format!("{header}\r\n"));
    if !body.is_empty() || line.starts_with("PUT") {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(&[request.as_bytes(), b"\r\n", body].concat()).unwrap();
    if line.starts_with("HEAD") {
        let (status, head) = head(stream).expect("an answer");
        return Answer { status, head, body: Vec::new() };
    }
    read(stream).unwrap_or_else(|| panic!("no answer to {line}"))
}

fn daemon(person: &Person) -> Up<'_> {
    person.up(&[])
}

#[test]
fn each_tool_hears_the_status_that_it_understands() {
    let person = Person::at_home();
    let up = daemon(&person);
    let mut stream = connect(&up.http());
    let hash = "5a".repeat(32);
    let keys = [
        ("/ccache/5a/5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a".to_owned(), 201),
        ("/webdav/team/5/a/5/5a5a5a".to_owned(), 201),
        ("/gradle/5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a".to_owned(), 201),
        ("/nx/v1/cache/12345678901234567890".to_owned(), 200),
        (format!("/bazel/ac/{hash}"), 200),
        (format!("/bazel/@acme~web/main/ac/{hash}"), 200),
    ];
    for (path, stored) in &keys {
        // All on one connection, which stays open.
        assert_eq!(ask(&mut stream, &format!("GET {path}"), &[], b"").status, 404, "{path}");
        assert_eq!(ask(&mut stream, &format!("HEAD {path}"), &[], b"").status, 404, "{path}");
        let value = format!("\u{cc}value of {path}");
        assert_eq!(ask(&mut stream, &format!("PUT {path}"), &[], value.as_bytes()).status, *stored, "{path}");
        let got = ask(&mut stream, &format!("GET {path}"), &[], b"");
        assert_eq!((got.status, got.body.as_slice()), (200, value.as_bytes()), "{path}");
        let head = ask(&mut stream, &format!("HEAD {path}"), &[], b"");
        assert_eq!(head.header("content-length"), Some(value.len().to_string().as_str()), "{path}");
        // What is sent again replaces what was there.
        assert_eq!(ask(&mut stream, &format!("PUT {path}"), &[], b"\xccother").status, *stored, "{path}");
        assert_eq!(ask(&mut stream, &format!("GET {path}"), &[], b"").body, b"\xccother", "{path}");
    }
    // One Project knows nothing of another.
    assert_eq!(ask(&mut stream, &format!("GET /bazel/main/ac/{hash}"), &[], b"").status, 404);
    for (line, status) in [
        ("PROPFIND /webdav/team/5/a/5/", 207),
        ("PROPFIND /webdav/team/5/a/5/5a5a5a", 207),
        ("PROPFIND /webdav/team/5/a/5/5a5a5b", 404),
        ("MKCOL /webdav/team/6/", 201),
        ("GET /webdav/.sccache_check", 404),
        ("PUT /webdav/.sccache_check", 201),
        ("GET /webdav/.sccache_check", 404),
        ("GET /bazel/status", 200),
        ("DELETE /ccache/5a/5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a", 204),
        ("GET /ccache/5a/5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a", 404),
        ("DELETE /ccache/5a/5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a", 404),
        ("POST /gradle/5a5a", 405),
        ("GET /", 404),
        ("GET /unknown/thing", 404),
    ] {
        let body: &[u8] = if line.starts_with("PUT") { b"Hello, World!" } else { b"" };
        assert_eq!(ask(&mut stream, line, &[], body).status, status, "{line}");
    }
}

#[test]
fn blobs_are_what_their_sha256_says() {
    let person = Person::at_home();
    let up = daemon(&person);
    let mut stream = connect(&up.http());
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let path = |name: &str| format!("/bazel/cas/{name}");
    assert_eq!(ask(&mut stream, &format!("GET {}", path(abc)), &[], b"").status, 404);
    assert_eq!(ask(&mut stream, &format!("PUT {}", path(abc)), &[], b"abd").status, 400);
    assert_eq!(ask(&mut stream, &format!("GET {}", path(abc)), &[], b"").status, 404);
    assert_eq!(ask(&mut stream, &format!("PUT {}", path(abc)), &[], b"abc").status, 200);
    assert_eq!(ask(&mut stream, &format!("GET {}", path(abc)), &[], b"").body, b"abc");
    let got = ask(&mut stream, &format!("GET {}", path(empty)), &[], b"");
    assert_eq!((got.status, got.body.len()), (200, 0));
    assert_eq!(ask(&mut stream, &format!("HEAD {}", path(empty)), &[], b"").status, 200);
    // A result is a hit only when all that it names is here.
    let digest = |name: &str| [&[0x0a, 64][..], name.as_bytes(), &[0x10, 3]].concat();
    let result = |name: &str| {
        let file = [&[0x12, 68][..], &digest(name)].concat();
        [&[0x12, 70][..], &file].concat()
    };
    let action = format!("/bazel/ac/{}", "11".repeat(32));
    assert_eq!(ask(&mut stream, &format!("PUT {action}"), &[], &result(&"00".repeat(32))).status, 200);
    assert_eq!(ask(&mut stream, &format!("GET {action}"), &[], b"").status, 404);
    for name in [abc, empty] {
        assert_eq!(ask(&mut stream, &format!("PUT {action}"), &[], &result(name)).status, 200);
        assert_eq!(ask(&mut stream, &format!("GET {action}"), &[], b"").body, result(name));
    }
}

#[test]
fn parts_names_and_bodies_that_wait_are_understood() {
    let person = Person::at_home();
    let up = daemon(&person);
    let mut stream = connect(&up.http());
    let value: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).take(3_000_000).collect();
    for (path, value) in [("/gradle/small", &value[..100]), ("/gradle/large", &value[..])] {
        // Nothing is sent before the daemon has said that it wants it.
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
            value.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        assert_eq!(read(&mut stream).unwrap().status, 100);
        stream.write_all(value).unwrap();
        assert_eq!(read(&mut stream).unwrap().status, 201);

        let get = |stream: &mut TcpStream, header: &str| ask(stream, &format!("GET {path}"), &[header], b"");
        let whole = get(&mut stream, "X: y");
        assert!(whole.body == value);
        let tag = whole.header("etag").unwrap().to_owned();
        let same = get(&mut stream, &format!("If-None-Match: {tag}"));
        assert_eq!((same.status, same.header("etag")), (304, Some(tag.as_str())));
        assert_eq!(get(&mut stream, "If-None-Match: \"other\"").status, 200);
        let (from, to) = (value.len() / 2, value.len() / 2 + 20);
        let part = get(&mut stream, &format!("Range: bytes={from}-{to}"));
        assert_eq!((part.status, &part.body[..]), (206, &value[from..=to]));
        assert_eq!(part.header("content-range"), Some(format!("bytes {from}-{to}/{}", value.len()).as_str()));
        assert_eq!(get(&mut stream, "Range: bytes=999999999-").status, 416);
        assert_eq!(get(&mut stream, "Range: bytes=-7").body, value[value.len() - 7..]);
    }
}

#[test]
fn what_is_put_again_and_again_is_what_was_put_last() {
    let person = Person::at_home();
    let up = daemon(&person);
    let mut stream = connect(&up.http());
    // More often than Entries about one key are looked at; ccache's keys change, Gradle's are replaced.
    for path in ["/ccache/5a/5a", "/gradle/5a"] {
        for number in 0..40 {
            let value = format!("value {number}");
            assert_eq!(ask(&mut stream, &format!("PUT {path}"), &[], value.as_bytes()).status, 201);
            assert_eq!(ask(&mut stream, &format!("GET {path}"), &[], b"").body, value.as_bytes(), "{path}");
        }
    }
    assert_eq!(person.status()["contradictions"], 0, "nobody contradicts herself by saying something new");
}

#[test]
fn what_is_stored_packed_is_given_so_to_whom_asks_for_it() {
    let person = Person::at_home();
    let up = daemon(&person);
    let mut stream = connect(&up.http());
    // Lines that pack well, and then a piece of noise that does not.
    let lines: Vec<u8> = (0..300_000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
    let noise = (0..1_u64 << 17)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).to_le_bytes());
    let value: Vec<u8> = lines.into_iter().chain(noise).collect();
    assert_eq!(ask(&mut stream, "PUT /gradle/lines", &[], &value).status, 201);
    // It is packed when nobody waits.
    let mut packed = None;
    for _ in 0..600 {
        let mut stream = connect(&up.http());
        let request = "GET /gradle/lines HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: zstd, gzip\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let (status, head) = head(&mut stream).unwrap();
        assert_eq!(status, 200);
        let mut body = Vec::new();
        stream.read_to_end(&mut body).unwrap();
        if head.contains("content-encoding: zstd\r\n") {
            assert!(head.contains("vary: accept-encoding\r\n") && head.contains("-zstd\"\r\n"), "{head}");
            packed = Some(unchunked(&body));
            break;
        }
        assert!(body == value, "until then it is given as it is");
        std::thread::sleep(Duration::from_millis(50));
    }
    let packed = packed.expect("it was packed");
    assert!(packed.len() < value.len());
    assert!(zstd::decode_all(packed.as_slice()).unwrap() == value);
    assert!(ask(&mut stream, "GET /gradle/lines", &[], b"").body == value);
}

/// A body that came in chunks (RFC 9112, 7.1).
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").expect("a chunk has a size");
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
}

/// The most memory that a process ever had, in bytes.
pub(super) fn peak(up: &Up<'_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", up.ready["pid"])).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn two_gibibytes_come_and_go_in_little_memory() {
    const PART: usize = 1 << 20;
    const PARTS: u64 = 2048;
    let person = Person::at_home();
    let up = daemon(&person);
    let mut stream = connect(&up.http());
    let mut part = vec![0x5a; PART];
    let size = PARTS * PART as u64;
    let head = format!("PUT /gradle/huge HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    for number in 0..PARTS {
        part[..8].copy_from_slice(&number.to_le_bytes());
        stream.write_all(&part).unwrap();
    }
    assert_eq!(read(&mut stream).unwrap().status, 201);
    stream.write_all(b"GET /gradle/huge HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(self::head(&mut stream).unwrap().1.contains(&format!("content-length: {size}\r\n")));
    let mut got = vec![0; PART];
    for number in 0..PARTS {
        part[..8].copy_from_slice(&number.to_le_bytes());
        stream.read_exact(&mut got).unwrap();
        assert!(got == part, "part {number} differs");
    }
    let peak = peak(&up);
    assert!(peak < 256 << 20, "{peak} bytes of memory");
}

/// The files of large Blobs below a folder.
pub(super) fn blobs(folder: &Path) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.metadata().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

#[test]
fn what_is_damaged_is_a_miss_to_whom_would_take_it() {
    let person = Person::at_home();
    let up = daemon(&person);
    let mut stream = connect(&up.http());
    let value: Vec<u8> =
        (0..1_u32 << 20).map(|number| number.wrapping_mul(0x9e37_79b9)).flat_map(u32::to_le_bytes).collect();
    assert_eq!(ask(&mut stream, "PUT /nx/v1/cache/7", &[], &value).status, 200);
    assert!(ask(&mut stream, "GET /nx/v1/cache/7", &[], b"").body == value);
    // In the last piece: what comes before it can be read.
    let file = blobs(&person.home().join("store/blobs")).pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() * 9 / 10;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let got = ask(&mut stream, "GET /nx/v1/cache/7", &[], b"");
    assert_eq!((got.status, got.body.len()), (404, 0));
    // It is put aside, and what comes in its place is served.
    assert_eq!(ask(&mut stream, "PUT /nx/v1/cache/7", &[], &value).status, 200);
    assert!(ask(&mut stream, "GET /nx/v1/cache/7", &[], b"").body == value);
}

#[test]
fn a_port_that_is_taken_keeps_nobody_from_the_socket_in_the_home() {
    let (ann, ben) = (Person::at_home(), Person::at_home());
    let ann_up = daemon(&ann);
    ben.set_http(&ann_up.http());
    let ben_up = ben.up(&[]);
    assert!(ben_up.ready["http"].is_null(), "{}", ben_up.ready);
    let failure = ben.status()["http"]["failure"].as_str().unwrap().to_owned();
    assert!(failure.contains(&ann_up.http()), "{failure}");
    let socket = ben.home().join("http.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(ask(&mut stream, "PUT /gradle/5a", &[], b"value").status, 201);
    assert_eq!(ask(&mut stream, "GET /gradle/5a", &["Host: anything"], b"").body, b"value");
    drop(ben_up);
    assert!(!socket.exists(), "it is taken away at the end");
    // And none at all when there is to be none.
    let ben_up = ben.up(&["--http", "off"]);
    assert!(ben_up.ready["http"].is_null() && ben.status()["http"]["failure"].is_null());
    assert!(!socket.exists());
}

#[test]
fn others_may_only_ask_with_a_token() {
    let person = Person::at_home();
    let refused = person.run(["up", "--http", "0.0.0.0:0"]);
    assert!(refused.code == 1 && refused.stderr.contains("a token is needed"), "{refused:?}");
    person.set("token = \"\"", "token = \"sesame\"");
    let up = person.up(&["--http", "0.0.0.0:0"]);
    let http = up.ready["http"].as_str().unwrap().replace("0.0.0.0", "127.0.0.1");
    let get = |header: &str| ask(&mut connect(&http), "GET /gradle/5a", &[header], b"");
    let refused = get("X: y");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Basic realm=\"potluck\"")));
    assert_eq!(get("Authorization: Bearer sesam").status, 401);
    assert_eq!(get("Authorization: Bearer sesame").status, 404);
    // "anyone:sesame"
    assert_eq!(get("Authorization: Basic YW55b25lOnNlc2FtZQ==").status, 404);
}
