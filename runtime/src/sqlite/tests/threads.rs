//! Tests of the writer threads that databases share.

use super::*;

/// More databases than threads: each gets its turn, and a blocked one leaves a thread to the
/// others.
#[tokio::test]
async fn few_threads_write_many_databases() {
    let folders: Vec<_> = (0..20).map(|_| TempDir::new().unwrap()).collect();
    let writers = WriterPool::new(2);
    let databases: Vec<_> = folders
        .iter()
        .map(|folder| {
            let path = folder.path().join("a.sqlite");
            Database::open(&path, &schema("me", STEPS), Options::default(), &writers).unwrap()
        })
        .collect();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let held = tokio::spawn({
        let database = databases[0].clone();
        async move {
            let work = move |_: &Transaction<'_>| {
                gate.recv().expect("the gate opens");
                Ok::<_, SqliteError>(())
            };
            database.write("w", work).await
        }
    });
    tokio::task::yield_now().await;
    for database in &databases[1..] {
        for n in 0..5 {
            database.write("w", move |tx| insert(tx, n)).await.unwrap();
        }
        assert_eq!(numbers(database).await.len(), 5);
    }
    go.send(()).expect("it waits");
    held.await.unwrap().unwrap();
}

/// A job submitted while the last writer thread ends is not forgotten. The race is short, so the
/// test submits jobs at many different times after the previous one.
#[tokio::test]
async fn a_job_submitted_while_the_writer_thread_ends_is_run() {
    const TIMES: u32 = 60_000;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("one.sqlite");
    let opened = Database::open(
        &path,
        &schema("me", STEPS),
        Options::default(),
        &WriterPool::new(1),
    );
    let database = opened.expect("it opens");
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        for time in 0..TIMES {
            let began = std::time::Instant::now();
            let work = |_: &Transaction<'_>| Ok::<_, SqliteError>(());
            let mut written = std::pin::pin!(database.write("nothing", work));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            while written.as_mut().poll(&mut context).is_pending() {
                if began.elapsed() > Duration::from_secs(60) {
                    return;
                }
            }
            (0..time % 400).for_each(|_| std::hint::spin_loop());
        }
        ended.send(()).expect("it is waited for");
    });
    end.await.expect("every job is run");
}
