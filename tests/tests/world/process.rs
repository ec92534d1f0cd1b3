//! Processes that can be killed, restarted and stopped, shown with the shell as a stand-in.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use muster_tests::{
    keeper::Keeper,
    process::{Command, Process},
};

fn shell(script: &str) -> Command {
    Command {
        name: "shell".to_owned(),
        program: PathBuf::from("/bin/sh"),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        ready: None,
    }
}

async fn until_greeted(process: &Process, times: usize) {
    let until = Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string(process.log())
        .unwrap()
        .matches("hello")
        .count()
        < times
    {
        assert!(Instant::now() < until, "not greeted {times} times");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn process_is_killed_restarted_and_stopped() {
    let keeper = Arc::new(Keeper::new("process").unwrap());
    let script = r#"trap 'echo bye; exit 7' TERM; echo "$GREETING"; while :; do sleep 0.05; done"#;
    let mut process = Process::start(&keeper, shell(script)).await.unwrap();
    assert!(process.is_running());
    until_greeted(&process, 1).await;
    process.kill().unwrap();
    assert!(!process.is_running());
    process.restart().await.unwrap();
    until_greeted(&process, 2).await;
    let status = process.stop(Duration::from_secs(10)).await.unwrap();
    assert_eq!((status.code(), process.starts()), (Some(7), 2));
    let dir = keeper.dir().to_path_buf();
    drop((process, keeper));
    assert!(!dir.exists());
}

#[tokio::test]
async fn process_that_ends_by_itself_is_reported_with_its_log() {
    let keeper = Arc::new(Keeper::new("process").unwrap());
    let mut process = Process::start(&keeper, shell("echo what went wrong >&2; exit 3"))
        .await
        .unwrap();
    while process.is_running() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = format!("{:#}", process.check_alive().unwrap_err());
    assert!(
        error.contains("what went wrong") && error.contains("exit status: 3"),
        "{error}"
    );
}
