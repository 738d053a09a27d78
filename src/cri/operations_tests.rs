use std::time::Duration;

use tokio::sync::oneshot;

use super::*;

#[tokio::test]
async fn an_operation_outlives_its_call() {
    let operations = Operations::default();
    let (go, wait) = oneshot::channel::<()>();
    let (done, ended) = oneshot::channel();
    let call = operations.run(async move {
        wait.await.unwrap();
        done.send(()).unwrap();
        Ok::<_, Status>(())
    });
    tokio::time::timeout(Duration::from_millis(5), call).await.unwrap_err();
    assert_eq!(operations.count(), 1);
    go.send(()).unwrap();
    ended.await.unwrap();
    operations.idle().await;
    assert_eq!(operations.count(), 0);
}

#[tokio::test]
async fn a_defect_is_an_error_of_that_call_only() {
    let operations = Operations::default();
    let error = operations
        .run(async {
            assert!(operations_are_fine(), "on purpose");
            Ok::<_, Status>(())
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::Internal);
    operations.idle().await;
    assert_eq!(operations.run(async { Ok::<_, Status>(7) }).await.unwrap(), 7);
}

fn operations_are_fine() -> bool {
    false
}
