use super::*;

#[test]
fn pressure_files() {
    let text = b"some avg10=1.50 avg60=0.07 avg300=12.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
    let pressure = pressure(text).unwrap();
    assert_eq!(pressure.some, PressureLine { total_ns: 1_234_000, avg10: 150, avg60: 7, avg300: 1200 });
    assert_eq!(pressure.full.total_ns, 5000);
    assert_eq!(super::pressure(b""), None);
}

#[test]
fn io_files() {
    let v1 = b"254:0 Read 4096\n254:0 Write 512\n254:0 Sync 4608\n7:0 Read 4\n7:0 Total 4\nTotal 5120\n";
    assert_eq!(sum_v1_io(v1), (4100, 512));
    let v2 = b"254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:0 rbytes=1 wbytes=0 rios=1 wios=0\n";
    let want = IoStats { read_bytes: 11, write_bytes: 20, read_operations: 2, write_operations: 2 };
    assert_eq!(sum_v2_io(v2), want);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_them_stumble(text in "([a-z=0-9.: \n]{0,12}|some avg10=[0-9.x]{0,6} total=[0-9]{0,30}\n|8:0 Read [0-9]{0,30}\n){0,9}") {
        let _ = pressure(text.as_bytes());
        let _ = sum_v1_io(text.as_bytes());
        let _ = sum_v2_io(text.as_bytes());
        let _ = parse::limit(text.as_bytes());
        let _ = parse::pairs(text.as_bytes()).count();
    }
}
