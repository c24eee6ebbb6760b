//! A thousand clients of `http-in` at once.

use super::*;

/// Returns the resident memory in KiB.
fn resident(process: &Process) -> u64 {
    let file = format!("/proc/{}/status", process.id());
    let status = std::fs::read_to_string(file).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.expect("a running process has resident memory")
}

/// Behaviour of a client of the crowd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    Good,
    Garbage,
    Unsigned,
    Huge,
    /// As large, but chunked: the length isn't known in advance.
    HugeChunks,
    SlowHead,
    SlowBody,
}

const MANNERS: [Manner; 9] = [
    Manner::Good,
    Manner::SlowHead,
    Manner::Garbage,
    Manner::SlowBody,
    Manner::Unsigned,
    Manner::SlowHead,
    Manner::Huge,
    Manner::SlowBody,
    Manner::HugeChunks,
];

/// Returns the bytes that a client sends first, and those that it sends after all clients are
/// connected.
fn words(manner: Manner, number: usize) -> (Vec<u8>, Vec<u8>) {
    let body = match manner {
        Manner::Garbage => b"{\"garbage\":".to_vec(),
        Manner::Huge => vec![b' '; 2_000_000],
        Manner::HugeChunks => {
            let chunk = format!("{:x}\r\n{}\r\n", 50_000, " ".repeat(50_000));
            (chunk.repeat(40) + "0\r\n\r\n").into_bytes()
        }
        // Large enough that all of them together exceed the budget.
        Manner::SlowBody => format!("[{}0]", " ".repeat(200_000)).into_bytes(),
        _ => format!("{{\"n\":{number}}}").into_bytes(),
    };
    let signed = match manner {
        Manner::Unsigned => signature(b"something else"),
        // The length alone causes the refusal: no need to hash two megabytes.
        Manner::Huge | Manner::HugeChunks => signature(b""),
        _ => signature(&body),
    };
    let length = match manner {
        Manner::HugeChunks => "Transfer-Encoding: chunked".to_owned(),
        _ => format!("Content-Length: {}", body.len()),
    };
    let head = format!(
        "POST /hook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Id: {number}\r\n\
         X-Hub-Signature-256: {signed}\r\nConnection: close\r\n{length}\r\n\r\n"
    );
    let mut all = head.into_bytes();
    let at = match manner {
        Manner::SlowHead => all.len() - 10,
        Manner::SlowBody => all.len() + body.len() - 10,
        _ => 0,
    };
    all.extend(body);
    let rest = all.split_off(at);
    match manner {
        // The rest never comes.
        Manner::SlowHead | Manner::SlowBody => (all, Vec::new()),
        _ => (Vec::new(), rest),
    }
}

/// Pseudo status of a connection that was closed without an answer.
const CUT_OFF: u16 = 0;

fn cut_off(error: &io::Error) -> bool {
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    kinds.contains(&error.kind())
}

#[test]
fn a_crowd_of_a_thousand_gets_honest_answers_and_memory_stays_flat() {
    const CLIENTS: usize = 1000;
    /// `memory_max`, the memory of connections and queues, and overhead of the allocator.
    const GROWTH_KIB_MAX: u64 = 64 * 1024;
    let config = format!(
        "secret = \"{SECRET}\"\nid_header = \"X-Id\"\nmemory_max = \"16MiB\"\n\
         header_timeout = \"6s\"\nbody_timeout = \"6s\""
    );
    let mut app = App::start(&config, &slow(4, 20));
    let warm = words(Manner::Good, CLIENTS).1;
    let answer = http::exchange(app.address, &warm).expect("there is an answer");
    assert_eq!(answer.code, 202);
    // In the crowd, the budget may be used up before the server has read enough of the body to
    // refuse its size.
    let alone = words(Manner::HugeChunks, CLIENTS).1;
    let answer = http::exchange(app.address, &alone).expect("there is an answer");
    assert_eq!(answer.code, 413);
    let before = resident(&app.process);
    let started = Instant::now();
    // All clients are connected, half of them in the middle of a request, before any of them
    // continues.
    let crowd: Vec<(Manner, TcpStream, Vec<u8>)> = (0..CLIENTS)
        .map(|number| {
            let manner = MANNERS[number % MANNERS.len()];
            let mut stream = app.connect();
            let (first, rest) = words(manner, number);
            // The connection may be closed while a refused body is being sent.
            let _refused = stream.write_all(&first);
            (manner, stream, rest)
        })
        .collect();
    let (sender, answers) = std::sync::mpsc::channel();
    let mut clients: Vec<_> = (0..8).map(|_| Vec::new()).collect();
    for (place, client) in crowd.into_iter().enumerate() {
        clients[place * 8 / CLIENTS].push(client);
    }
    let mut most = before;
    std::thread::scope(|scope| {
        for clients in clients {
            let sender = sender.clone();
            scope.spawn(move || {
                let spoken: Vec<_> = clients
                    .into_iter()
                    .map(|(manner, mut stream, rest)| {
                        let written = stream.write_all(&rest);
                        (manner, stream, written)
                    })
                    .collect();
                for (manner, mut stream, written) in spoken {
                    let answer = written.and_then(|()| http::answer(&mut stream));
                    sender
                        .send((manner, answer))
                        .expect("the counter has a receiver");
                }
            });
        }
        drop(sender);
        let mut codes: BTreeMap<(Manner, u16), usize> = BTreeMap::new();
        let mut accepted = vec![CLIENTS.to_string()];
        for (manner, answer) in &answers {
            let answer = match answer {
                // A client that continues a refused body may be disconnected before it reads the
                // answer.
                Err(error) if manner == Manner::HugeChunks && cut_off(&error) => {
                    *codes.entry((manner, CUT_OFF)).or_default() += 1;
                    continue;
                }
                answer => answer.unwrap_or_else(|error| panic!("{manner:?}: {error}")),
            };
            *codes.entry((manner, answer.code)).or_default() += 1;
            if answer.code == 202 {
                accepted.push(answer.json()["id"].as_str().expect("an id").to_owned());
            }
            if answer.code == 503 {
                assert!(answer.header("retry-after").is_some());
            }
            most = most.max(resident(&app.process));
        }
        println!("{codes:?}");
        assert_eq!(
            codes.values().sum::<usize>(),
            CLIENTS,
            "everybody is answered"
        );
        for (manner, code) in codes.keys() {
            let honest: &[u16] = match manner {
                Manner::Good => &[202, 503],
                Manner::Garbage => &[400, 503],
                Manner::Unsigned => &[401, 503],
                Manner::Huge => &[413],
                Manner::HugeChunks => &[413, 503, CUT_OFF],
                Manner::SlowHead => &[408],
                Manner::SlowBody => &[408, 503],
            };
            assert!(honest.contains(code), "{manner:?}: {code}");
        }
        for manner in MANNERS.into_iter().filter(|m| *m != Manner::HugeChunks) {
            let own = manner_code(manner);
            assert!(
                codes.contains_key(&(manner, own)),
                "{manner:?} has no {own}"
            );
        }
        accepted.sort();
        let mut kept: Vec<String> = app
            .kept(accepted.len())
            .iter()
            .map(|line| line["headers"]["x-id"].as_str().expect("an id").to_owned())
            .collect();
        kept.sort();
        assert_eq!(kept, accepted, "exactly the accepted messages were handled");
    });
    most = most.max(resident(&app.process));
    println!(
        "{before} KiB before, {most} KiB at most, {:?}",
        started.elapsed()
    );
    assert!(
        most < before + GROWTH_KIB_MAX,
        "resident memory grew from {before} KiB to {most} KiB"
    );
    app.stop();
}

/// Returns the status that only clients of this behaviour get.
fn manner_code(manner: Manner) -> u16 {
    match manner {
        Manner::Good => 202,
        Manner::Garbage => 400,
        Manner::Unsigned => 401,
        Manner::Huge | Manner::HugeChunks => 413,
        Manner::SlowHead | Manner::SlowBody => 408,
    }
}
