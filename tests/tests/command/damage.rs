//! Damaged files and folders of `embedded:`. The error names the file and the remedy, nothing is
//! reset, and readable messages are served.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{
    Backpressure, Completion, Depth, Outgoing, Overflow, QueueSpec, Topology, Transport,
    TransportError, take,
};
use brickwork::{Envelope, QueueId};
use brickwork_bridges::all;
use brickwork_tests::kept::Queues;
use tokio::time::timeout;

const PAGE: usize = 4096;
/// First byte of a table leaf page (SQLite file format, section 1.6).
const LEAF: u8 = 0x0d;
const SOON: Duration = Duration::from_secs(20);

async fn connect(folder: &Path) -> Result<Arc<dyn Transport>, TransportError> {
    let (transports, url) = (all(), format!("embedded:{}", folder.display()));
    let connector = transports.for_url(&url).expect("it is there");
    connector
        .connect(&url, Arc::<Backpressure>::default())
        .await
}

fn topology(app: &str) -> Topology {
    Topology {
        app: app.into(),
        queues: vec![QueueSpec {
            id: requests(),
            topics: vec!["orders".into()],
            high_water: 1_000_000,
            limit: None,
            overflow: Overflow::DeadLetter,
            single_active: false,
            keyed: None,
            feeds: Vec::new(),
        }],
        ..Topology::default()
    }
}

fn requests() -> QueueId {
    QueueId::new("stock", "requests")
}

async fn open(folder: &Path) -> Arc<dyn Transport> {
    let transport = connect(folder).await.expect("it connects");
    let declared = transport.declare(&topology("shop")).await;
    declared.expect("it declares");
    transport
}

/// Returns a payload that can be found in the file.
fn payload(number: u32) -> String {
    format!("<number {number:06}>{:x>1000}", "")
}

async fn publish(transport: &dyn Transport, numbers: std::ops::Range<u32>) {
    let batch = numbers.map(|number| {
        let mut envelope = Envelope::new("order", payload(number));
        envelope.topic = "orders".into();
        brickwork::Message::from(envelope).into()
    });
    let (done, outcome) = Completion::channel();
    transport.publish(batch.collect(), done);
    outcome.await.expect("it is published");
}

async fn publish_later(transport: &dyn Transport, numbers: std::ops::Range<u32>, delay: Duration) {
    for number in numbers {
        let mut envelope = Envelope::new("order", payload(number));
        envelope.topic = "orders".into();
        let later = Outgoing {
            delay,
            ..brickwork::Message::from(envelope).into()
        };
        let (done, outcome) = Completion::channel();
        transport.publish(vec![later], done);
        outcome.await.expect("it is published");
    }
}

/// Takes and acks until no message is left.
async fn take_all(transport: &dyn Transport) -> Vec<u32> {
    let consumer = transport.consume(&requests(), 64).await;
    let mut consumer = consumer.expect("it consumes");
    let (mut numbers, mut quiet) = (Vec::new(), 0);
    let taking = async {
        while transport.depth(&requests()).await.expect("a depth") != Depth::default() {
            let mut taken = VecDeque::new();
            let some = take(&mut *consumer, &mut taken, 64);
            // A counted message may be damaged: then no delivery comes.
            let Ok(some) = timeout(Duration::from_millis(500), some).await else {
                quiet += 1;
                if quiet == 4 {
                    break;
                }
                continue;
            };
            quiet = 0;
            some.expect("it goes on");
            for delivery in taken {
                let text = String::from_utf8_lossy(&delivery.message().payload).into_owned();
                let number: u32 = text[8..14].parse().expect("a number");
                assert_eq!(text, payload(number), "a payload that was never sent");
                numbers.push(number);
                delivery.ack();
            }
        }
    };
    timeout(SOON, taking).await.expect("it comes to an end");
    transport.flush().await.expect("it flushes");
    numbers
}

/// Changes the file at each copy of a message's payload. Returns the number of copies.
fn damage(folder: &Path, number: u32, change: impl Fn(&mut [u8], usize)) {
    let file = folder.join("queues.sqlite");
    let mut bytes = std::fs::read(&file).expect("it is there");
    let mark = payload(number);
    let mark = &mark.as_bytes()[..15];
    let mut found = bytes.windows(mark.len());
    let at = found
        .position(|window| window == mark)
        .expect("it is in it");
    change(&mut bytes, at);
    std::fs::write(&file, bytes).expect("it can be written");
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let queues = folder.path().join("queues");
    (folder, queues)
}

#[tokio::test]
async fn a_file_that_is_no_database_is_reported_and_left_alone() {
    let (_kept, folder) = folder();
    std::fs::create_dir(&folder).expect("a folder can be made");
    let file = folder.join("queues.sqlite");
    let diary = "dear diary, ".repeat(1000);
    std::fs::write(&file, &diary).expect("it can be written");
    let error = connect(&folder).await.err().expect("it can't be used");
    let text = error.to_string();
    assert!(matches!(error, TransportError::Connect { .. }), "{text}");
    for said in ["queues.sqlite", "is damaged", "nothing in it was reset"] {
        assert!(text.contains(said), "{text}");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), diary);
}

#[tokio::test]
async fn a_flipped_byte_costs_one_message_which_is_kept_and_reported() {
    let (_kept, folder) = folder();
    let transport = open(&folder).await;
    publish(&*transport, 0..10).await;
    transport.close().await;
    damage(&folder, 5, |bytes, at| bytes[at + 500] ^= 0x10);
    for round in 0..2 {
        let transport = open(&folder).await;
        let taken = take_all(&*transport).await;
        let expected: Vec<u32> = match round {
            0 => (0..10).filter(|number| *number != 5).collect(),
            _ => Vec::new(),
        };
        assert_eq!(taken, expected);
        transport.close().await;
        let queues = Queues::open(&folder).expect("they are there");
        assert_eq!(queues.left(), 1, "it stays in the file");
        assert_eq!(queues.count("SELECT count(*) FROM damaged"), 1);
    }
}

#[tokio::test]
async fn a_damaged_delayed_message_blocks_no_other() {
    let (_kept, folder) = folder();
    let transport = open(&folder).await;
    publish_later(&*transport, 0..3, Duration::from_millis(50)).await;
    transport.close().await;
    let sql = "UPDATE delayed SET payload = CAST(payload || '!' AS BLOB) WHERE id = 2";
    Queues::vandalise(&folder, sql);
    let transport = open(&folder).await;
    let consumer = transport.consume(&requests(), 64).await;
    let mut consumer = consumer.expect("it consumes");
    let mut taken = VecDeque::new();
    while taken.len() < 2 {
        let some = timeout(SOON, take(&mut *consumer, &mut taken, 64)).await;
        some.expect("they come").expect("it goes on");
    }
    let ids: Vec<&[u8]> = taken
        .iter()
        .map(|it| &it.message().payload[8..14])
        .collect();
    assert_eq!(ids, [b"000000", b"000002"]);
    taken.into_iter().for_each(brickwork::Delivery::ack);
    transport.flush().await.expect("it flushes");
    transport.close().await;
    let queues = Queues::open(&folder).expect("they are there");
    assert_eq!(queues.left(), 1, "it stays in the file");
}

#[tokio::test]
async fn a_damaged_page_costs_only_the_messages_on_it() {
    const MESSAGES: u32 = 3_000;
    let (_kept, folder) = folder();
    let transport = open(&folder).await;
    publish(&*transport, 0..MESSAGES).await;
    transport.close().await;
    damage(&folder, 1_500, |bytes, at| {
        let page = at / PAGE * PAGE;
        bytes[page..page + PAGE].fill(0xaa);
    });
    let transport = open(&folder).await;
    publish(&*transport, MESSAGES..MESSAGES + 10).await;
    let taken = take_all(&*transport).await;
    let missing: Vec<u32> = (0..MESSAGES + 10)
        .filter(|number| !taken.contains(number))
        .collect();
    assert!((1..=4).contains(&missing.len()), "{missing:?}");
    assert!(missing.contains(&1_500), "{missing:?}");
    assert_eq!(taken.len() + missing.len(), MESSAGES as usize + 10);
    // The transport still works.
    publish(&*transport, 0..10).await;
    assert_eq!(take_all(&*transport).await, (0..10).collect::<Vec<_>>());
    transport.close().await;
    let bytes = std::fs::read(folder.join("queues.sqlite")).expect("it is there");
    let damaged = bytes.chunks(PAGE).filter(|page| page[..] == [0xaa; PAGE]);
    assert_eq!(damaged.count(), 1, "the page was reset");
}

/// Damages any page, also inner pages: readable messages are served, or the file is refused.
#[tokio::test]
async fn damage_of_any_page_loses_no_readable_message() {
    const MESSAGES: u32 = 2_000;
    let (_kept, whole) = folder();
    let transport = open(&whole).await;
    publish(&*transport, 0..MESSAGES).await;
    publish_later(&*transport, MESSAGES..MESSAGES + 20, Duration::from_secs(1)).await;
    transport.close().await;
    let file = std::fs::read(whole.join("queues.sqlite")).expect("it is there");
    let pages = file.len() / PAGE;
    let (mut refused, mut short) = (0, 0);
    // The roots, the first and last message pages, and some between.
    let some = (1..30)
        .chain((30..pages).step_by(97))
        .chain(pages - 3..pages);
    for page in some {
        let (_kept, folder) = folder();
        std::fs::create_dir(&folder).expect("a folder can be made");
        let mut bytes = file.clone();
        let is_leaf = bytes[page * PAGE] == LEAF;
        let of_messages = bytes[page * PAGE..][..PAGE]
            .windows(8)
            .filter(|window| window == b"<number ")
            .count();
        bytes[page * PAGE..][..PAGE].fill(0xaa);
        std::fs::write(folder.join("queues.sqlite"), bytes).expect("it can be written");
        let transport = match connect(&folder).await {
            Ok(transport) => transport,
            Err(error) => {
                assert!(error.to_string().contains("is damaged"), "{page}: {error}");
                refused += 1;
                continue;
            }
        };
        if let Err(error) = transport.declare(&topology("shop")).await {
            assert!(error.to_string().contains("is damaged"), "{page}: {error}");
            refused += 1;
            transport.close().await;
            continue;
        }
        let taken = take_all(&*transport).await;
        if is_leaf {
            // Delayed messages on the page do not count any more: the app would never be idle.
            let depth = transport.depth(&requests()).await.expect("a depth");
            assert_eq!(
                depth,
                Depth::default(),
                "page {page}: waits for a damaged message"
            );
        }
        transport.close().await;
        let mut once = taken.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), taken.len(), "page {page}: some came twice");
        let missing = (MESSAGES + 20) as usize - taken.len();
        short += usize::from(missing > 0);
        if is_leaf && of_messages > 0 {
            // Two messages start on the previous page or end on the next one.
            assert!(
                missing <= of_messages + 2,
                "page {page}: {missing} are missing"
            );
        }
    }
    println!("{pages} pages; refused with {refused} of them, some missing with {short}");
    assert!(refused > 0 && short > 0, "{refused} refused, {short} short");
}

#[tokio::test]
async fn a_second_user_of_a_folder_learns_which_process_has_it() {
    let (_kept, folder) = folder();
    let transport = open(&folder).await;
    let error = connect(&folder).await.err().expect("it is taken");
    let text = error.to_string();
    let process = format!("process {}", std::process::id());
    assert!(text.contains(&process), "{text}");
    assert!(text.contains(&folder.display().to_string()), "{text}");
    publish(&*transport, 0..1).await;
    transport.close().await;
    let transport = connect(&folder).await.expect("it is free now");
    transport.close().await;
}

#[tokio::test]
async fn another_apps_queues_are_not_touched() {
    let (_kept, folder) = folder();
    let transport = open(&folder).await;
    publish(&*transport, 0..3).await;
    transport.close().await;
    let transport = connect(&folder).await.expect("it connects");
    for declared in [
        transport.declare(&topology("bank")).await,
        transport.attach(&topology("bank")).await,
    ] {
        let text = declared.expect_err("it is another app's").to_string();
        assert!(text.contains("shop") && text.contains("bank"), "{text}");
    }
    transport.close().await;
    let transport = open(&folder).await;
    assert_eq!(take_all(&*transport).await, [0, 1, 2]);
    transport.close().await;
}

#[tokio::test]
async fn a_read_only_folder_is_reported() {
    let (kept, folder) = folder();
    open(&folder).await.close().await;
    let mount = |options: &[&str]| {
        let mounted = Command::new("mount")
            .args(options)
            .arg(kept.path())
            .status();
        mounted.is_ok_and(|status| status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "ro", "tmpfs"]) {
        use std::io::Write;
        let text = "SKIPPED: nothing can be mounted, which needs root: read-only folders are not \
                    tested";
        let _unseen = writeln!(std::io::stderr(), "{text}");
        return;
    }
    let error = connect(&folder).await.err();
    let unmounted = Command::new("umount").arg(kept.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    let text = error.expect("it can't be written").to_string();
    let said = text.contains("Read-only") && text.contains(&folder.display().to_string());
    assert!(said, "{text}");
}
