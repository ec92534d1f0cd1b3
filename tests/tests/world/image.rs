//! The image's executables start where there is nothing but the image.

use muster_tests::scenarios::image;

#[tokio::test(flavor = "multi_thread")]
async fn every_executable_starts_from_the_unpacked_image_alone() {
    let figures = image::run(None).await.unwrap();
    assert!(figures.is_good(), "{figures:#?}");
}
