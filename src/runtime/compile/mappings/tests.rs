use oci_spec::runtime::LinuxIdMappingBuilder;

use super::*;

fn map(inside: u32, outside: u32, size: u32) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default().container_id(inside).host_id(outside).size(size).build().unwrap()
}

fn error(uids: &[LinuxIdMapping]) -> String {
    id_maps("linux.", Some(uids), Some(&[map(0, 0, 1)])).unwrap_err().to_string()
}

#[test]
fn both_or_none() {
    let one = [map(0, 100_000, 65_536)];
    assert_eq!(id_maps("linux.", None, Some(&[])).unwrap(), None);
    let maps = id_maps("linux.", Some(&one), Some(&one)).unwrap().unwrap();
    assert_eq!(maps.uids, [IdRange { inside: 0, outside: 100_000, size: 65_536 }]);
    assert_eq!((maps.uid(0), maps.uid(65_535), maps.gid(65_536)), (Some(100_000), Some(165_535), None));
    assert!(id_maps("linux.", Some(&one), None).unwrap_err().to_string().contains("linux.gidMappings"));
    assert!(id_maps("linux.", None, Some(&one)).unwrap_err().to_string().contains("linux.uidMappings"));
}

#[test]
fn cve_2021_43784_no_number_of_mappings_is_cut() {
    let many = |n: u32| (0..n).map(|i| map(i, i, 1)).collect::<Vec<_>>();
    assert!(id_maps("linux.", Some(&many(340)), Some(&many(340))).is_ok());
    for n in [341, 5000, 200_000] {
        assert!(error(&many(n)).contains("no more than 340"), "{n}");
    }
    let long: Vec<_> = (0..340).map(|i| map(1_000_000_000 + i, 2_000_000_000 + i, 1)).collect();
    assert!(error(&long).contains("no more than 4095"));
}

#[test]
fn what_the_kernel_would_refuse_is_named() {
    assert!(error(&[map(0, 0, 0)]).contains("maps nothing"));
    assert!(error(&[map(0, u32::MAX, 1)]).contains("beyond the last id"));
    assert!(error(&[map(5, 0, u32::MAX - 4)]).contains("beyond the last id"));
    assert!(error(&[map(0, 10, 10), map(9, 100, 1)]).contains("the container's id 9 twice"));
    assert!(error(&[map(0, 10, 10), map(10, 19, 1)]).contains("the host's id 19 twice"));
    assert!(id_maps("linux.", Some(&[map(10, 0, 5), map(0, 5, 10)]), Some(&[map(0, 0, 1)])).is_ok());
}
