//! Logs of jobs: an address from GitHub, the log from there, no credential on the way.

use muster_github::{Error, ErrorClass};

use crate::fake::{Reply, Rig, render, token};

const LOG: &str = "2024-09-11T10:01:02.0000000Z ##[error]Process completed with exit code 2.\n";

/// A GitHub that keeps its logs on its own host, as an Enterprise Server does.
fn keeps_logs(rig: &Rig, log: &'static str) {
    rig.fake.script(move |seen| match seen.path.split('?').next() {
        Some("/repos/acme/old/actions/jobs/7/logs") => {
            Reply::new(301, "").with("location", "/repos/acme/api/actions/jobs/7/logs")
        }
        Some("/repos/acme/api/actions/jobs/7/logs") => {
            Reply::new(302, "").with("location", "/kept/7?sig=sentinel")
        }
        Some("/kept/7") => Reply::new(200, log),
        _ => Reply::new(404, "{}"),
    });
}

async fn read(rig: &Rig, repository: &str, limit: u64) -> Result<(String, bool), Error> {
    let mut text = Vec::new();
    let github = rig.client(token("secret"));
    let whole = github
        .read_job_log(&repository.parse().unwrap(), 7, limit, |piece| {
            text.extend_from_slice(piece);
        })
        .await?;
    Ok((String::from_utf8(text).unwrap(), whole))
}

#[tokio::test]
async fn a_log_is_fetched_from_where_it_is_kept_without_the_credential() {
    let rig = Rig::new().await;
    keeps_logs(&rig, LOG);
    assert_eq!(
        read(&rig, "acme/api", 1 << 20).await.unwrap(),
        (LOG.to_owned(), true)
    );
    let seen = rig.fake.take();
    let authorized: Vec<(&str, bool)> = seen
        .iter()
        .map(|request| {
            (
                request.path.as_str(),
                request.headers.contains_key("authorization"),
            )
        })
        .collect();
    assert_eq!(
        authorized,
        [
            ("/repos/acme/api/actions/jobs/7/logs", true),
            ("/kept/7?sig=sentinel", false)
        ]
    );
    let outcomes = rig.observer.outcomes();
    assert_eq!(outcomes.get(&("download_log", "ok")), Some(&1), "{outcomes:?}");
    assert_eq!(
        read(&rig, "acme/old", 1 << 20).await.unwrap().0,
        LOG,
        "a renamed repository"
    );
}

#[tokio::test]
async fn a_log_is_read_up_to_the_limit() {
    let rig = Rig::new().await;
    keeps_logs(&rig, LOG);
    let (text, whole) = read(&rig, "acme/api", 10).await.unwrap();
    assert_eq!((text.as_str(), whole), (&LOG[..10], false));
    let exactly = u64::try_from(LOG.len()).unwrap();
    assert!(read(&rig, "acme/api", exactly).await.unwrap().1);
}

#[tokio::test]
async fn what_keeps_a_log_away_is_told_without_its_address() {
    let rig = Rig::new().await;
    for (api, kept, class) in [
        (404, 200, ErrorClass::NotFound),
        (410, 200, ErrorClass::Rejected),
        (200, 200, ErrorClass::Rejected),
        (302, 403, ErrorClass::Rejected),
        (302, 302, ErrorClass::Rejected),
        (302, 503, ErrorClass::Unavailable),
    ] {
        let base = rig.fake.base.clone();
        rig.fake.script(move |seen| {
            if seen.path.starts_with("/repos/") {
                Reply::new(api, "{}").with("location", format!("{base}/kept?sig=sentinel"))
            } else {
                Reply::new(kept, "").with("location", "http://127.0.0.1:1/sentinel")
            }
        });
        let error = read(&rig, "acme/api", 100).await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert!(!render(&error).contains("sentinel"), "{error:?}");
    }
    rig.fake.script(|seen| {
        if seen.path.starts_with("/repos/") {
            Reply::new(302, "").with("location", "/kept?sig=sentinel")
        } else {
            Reply::broken()
        }
    });
    let error = read(&rig, "acme/api", 100).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert!(!render(&error).contains("sentinel"), "{error:?}");
}
