import json
from itertools import pairwise

import pytest

from medstill.config import SplitConfig
from medstill.errors import RunError, SplitError
from medstill.volumes.records import CaseInfo, Split
from medstill.volumes.splits import (
    check_split,
    load_split,
    make_split,
    nested_fractions,
    save_split,
)


def info(case, patient=None, *, labelled=True, site=None):
    return CaseInfo(
        id=case,
        patient=patient or case,
        site=site,
        labelled=labelled,
        spacing_zyx_mm=(3.0, 2.0, 1.0),
        original_spacing_zyx_mm=(3.0, 2.0, 1.0),
        voxels_by_class=(5, 1) if labelled else (),
        image_file=(f"{case}.nii",),
        content_hash=case,
    )


def cohort(patients, scans=1):
    return [info(f"p{p:02}-{s}", f"p{p:02}") for p in range(patients) for s in range(scans)]


def patients_of(split, cases):
    return {split.patients[case] for case in cases}


def split_of(infos, fraction=1.0, splits_file=None, **config):
    return make_split(infos, SplitConfig(**config), fraction, "hash", splits_file)


def sizes(split):
    return tuple(
        len(patients_of(split, part)) for part in (split.train, split.validation, split.test)
    )


def test_shares_are_of_patients_and_all_their_cases_go_together():
    split = split_of(cohort(20, scans=3), train=0.6, validation=0.15, test=0.25)
    assert sizes(split) == (12, 3, 5)
    assert (len(split.train), len(split.validation), len(split.test)) == (36, 9, 15)


def test_counts_and_shares_can_be_mixed():
    assert sizes(split_of(cohort(22), train=12, validation=3, test=7)) == (12, 3, 7)
    assert sizes(split_of(cohort(22), validation=3, test=7)) == (12, 3, 7)
    assert sizes(split_of(cohort(22), train=5, validation=0.1, test=0.5)) == (5, 2, 11)


def test_three_patients_are_enough():
    assert sizes(split_of(cohort(3))) == (1, 1, 1)


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    infos = cohort(22, scans=2)
    assert split_of(infos, seed=4) == split_of(infos[::-1], seed=4)
    assert split_of(infos, seed=4).test != split_of(infos, seed=5).test


def test_every_patient_is_tested_in_exactly_one_fold():
    infos = cohort(22, scans=2)
    splits = [split_of(infos, kind="folds", fold=fold, validation=0.15) for fold in range(5)]
    tested = [patient for split in splits for patient in patients_of(split, split.test)]
    assert sorted(tested) == sorted({i.patient for i in infos})
    assert [sizes(split) for split in splits] == [(14, 3, 5)] * 2 + [(15, 3, 4)] * 3


def test_students_see_nested_shares_rounded_up():
    infos = cohort(22, scans=2)
    students = [
        patients_of(s, s.student)
        for s in (split_of(infos, f, train=13, validation=3, test=6) for f in (0.1, 0.25, 0.5, 1.0))
    ]
    assert [len(student) for student in students] == [2, 4, 7, 13]
    assert all(small < large for small, large in pairwise(students))


def test_binary_fractions_do_not_add_a_patient():
    patients = [f"p{i}" for i in range(30)]
    assert len(nested_fractions(patients, (0.1,), 0)[0.1]) == 3


def test_unlabelled_cases_are_never_of_a_held_out_patient():
    infos = cohort(9) + [info(f"extra{p}", f"p{p:02}", labelled=False) for p in range(9)]
    infos.append(info("stranger", labelled=False))
    split = split_of(infos)
    held_out = patients_of(split, split.validation + split.test)
    expected = {f"extra{p}" for p in range(9) if f"p{p:02}" not in held_out} | {"stranger"}
    assert set(split.unlabelled) == expected
    assert set(split.left_out) == {f"extra{p}" for p in range(9)} - expected
    used = {*split.train, *split.validation, *split.test, *split.student}
    assert not used & {i.id for i in infos if not i.labelled}


@pytest.mark.parametrize("kind", ["fractions", "folds"])
def test_unlabelled_cases_of_a_held_out_site_are_left_out(kind):
    infos = [info(f"c{i:02}", site=f"site{i % 7}") for i in range(40)]
    bare = [info(f"bare{s}", site=f"site{s}", labelled=False) for s in range(7)]
    bare.append(info("far", site="another site", labelled=False))
    split = split_of([*infos, *bare], kind=kind, group_by="site")
    site = {i.id: i.site for i in infos}
    trained = {f"bare{site[case].removeprefix('site')}" for case in split.train}
    assert set(split.unlabelled) == trained | {"far"}
    assert set(split.left_out) == {i.id for i in bare} - set(split.unlabelled)
    with pytest.raises(SplitError, match="case 'bare' has none"):
        split_of([*infos, info("bare", labelled=False)], kind=kind, group_by="site")


@pytest.mark.parametrize("kind", ["fractions", "folds"])
def test_sites_are_kept_whole(kind):
    infos = [info(f"c{i:02}", site=f"site{i % 7}") for i in range(40)]
    split = split_of(infos, kind=kind, group_by="site")
    site = {i.id: i.site for i in infos}
    parts = [{site[c] for c in part} for part in (split.train, split.validation, split.test)]
    assert all(parts)
    assert sum(len(part) for part in parts) == len(set(site.values()))


def test_fewer_sites_than_parts_are_refused():
    infos = [info(f"c{i}", site=f"site{i % 2}") for i in range(8)]
    with pytest.raises(
        SplitError, match=r"at least 3 sites for 3 parts, found 2.*group_by=patient"
    ):
        split_of(infos, group_by="site")


def test_a_patient_without_or_of_two_sites_is_refused():
    with pytest.raises(SplitError, match="case 'p00-0' has none"):
        split_of(cohort(4), group_by="site")
    infos = [info("a1", "a", site="x"), info("a2", "a", site="y"), info("b", site="x"), info("c")]
    with pytest.raises(SplitError, match="one site for patient 'a', found 'x' and 'y'"):
        split_of(infos, group_by="site")


@pytest.mark.parametrize("patients", [1, 2])
def test_too_few_patients_are_refused(patients):
    with pytest.raises(SplitError, match=f"at least 3 patients.*found {patients}"):
        split_of(cohort(patients, scans=5))


def test_more_than_there_is_is_refused():
    with pytest.raises(
        SplitError,
        match=r"asks for 9 .* at least \d, but 9 are left.*Ask for",
    ):
        split_of(cohort(9), test=9)
    with pytest.raises(SplitError, match="asks for 8 patients"):
        split_of(cohort(9), train=8, validation=1, test=1)


def test_an_empty_part_is_refused():
    with pytest.raises(SplitError, match="found none left for validation"):
        split_of(cohort(9), validation=0)


def test_more_folds_than_patients_are_refused():
    with pytest.raises(SplitError, match="at least 5 patients for 5 parts, found 4"):
        split_of(cohort(4), kind="folds")


@pytest.fixture
def nnunet_file(tmp_path):
    def write(*folds):
        path = tmp_path / "splits_final.json"
        path.write_text(json.dumps([{"train": list(t), "val": list(v)} for t, v in folds]))
        return path

    return write


def test_the_val_cases_of_nnunet_are_tested(nnunet_file):
    infos = cohort(8)
    names = [i.id for i in infos]
    path = nnunet_file((names[:4], names[4:6]), (names[2:6], names[6:]))
    split = split_of(infos, kind="nnunet", fold=1, validation=1, splits_file=path)
    assert set(split.test) == set(names[6:])
    assert {*split.train, *split.validation} == set(names[2:6])
    assert len(split.validation) == 1


def test_nnunet_files_that_do_not_fit_are_refused(nnunet_file, tmp_path):
    infos = [*cohort(4), info("p00-1", "p00")]
    names = [i.id for i in infos]
    with pytest.raises(SplitError, match=r"no splits_final.json"):
        split_of(infos, kind="nnunet")
    with pytest.raises(SplitError, match="1 others \\(ghost\\)"):
        split_of(infos, kind="nnunet", splits_file=nnunet_file((names[:3], ["ghost"])))
    with pytest.raises(SplitError, match="'p00' in train and val of fold 0"):
        split_of(infos, kind="nnunet", splits_file=nnunet_file((names[:4], names[4:])))
    with pytest.raises(SplitError, match="found 1 folds"):
        split_of(infos, kind="nnunet", fold=1, splits_file=nnunet_file((names[:3], names[3:4])))
    (tmp_path / "splits_final.json").write_text('{"folds": 3}')
    with pytest.raises(SplitError, match="a list of folds"):
        split_of(infos, kind="nnunet", splits_file=tmp_path / "splits_final.json")


def test_a_split_is_kept_and_refused_for_other_data(tmp_path):
    split = split_of(cohort(9), 0.5)
    save_split(split, tmp_path / "split.json")
    assert load_split(tmp_path / "split.json", "hash") == split
    with pytest.raises(SplitError, match="hash other, found hash"):
        load_split(tmp_path / "split.json", "other")
    (tmp_path / "split.json").write_text("{}")
    with pytest.raises(RunError, match="is no split"):
        load_split(tmp_path / "split.json", "hash")


def hand_made(**change):
    content = {
        "train": ("a1", "b"),
        "validation": ("c",),
        "test": ("d",),
        "student": ("b",),
        "patients": {"a1": "a", "a2": "a", "b": "b", "c": "c", "d": "d", "u": "c"},
        "data_hash": "hash",
    }
    return Split(**{**content, **change})


def test_a_patient_in_two_places_is_refused():
    check_split(hand_made())
    with pytest.raises(SplitError, match="found 'a' in train and in test \\(case 'a2'\\)"):
        check_split(hand_made(test=("a2", "d")))
    with pytest.raises(SplitError, match="student's cases among the training cases"):
        check_split(hand_made(student=("c",)))
    with pytest.raises(SplitError, match="unlabelled cases of no validation patient, found 'u'"):
        check_split(hand_made(unlabelled=("u",)))
