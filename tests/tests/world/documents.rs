//! The documents' commands work as written.

use muster_tests::scenarios::documents;

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_documents_work_as_written() {
    let figures = documents::run().await.unwrap();
    assert!(figures.is_good(), "{figures:#?}");
}
