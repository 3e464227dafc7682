"""How many awkward inputs the tests hold, by kind, as a table: `python tests/awkward.py`.

An input is one case of a test below, as pytest collects it; what `hypothesis` generates, or a test holds in a
loop, counts once.
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent

# What comes of such an input, and the tests that hold it, by file.
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "answers of a model": (
        "read in whichever form, or a counted reject; the job goes on",
        {
            "test_openai_backend.py": """
                a_good_answer_is_read half_of_a_surrogate odd_answers_are_rejects nobody_sees
                an_answer_that_was_cut an_answer_that_holds_the_key
                """,
            "test_triplets.py": "malformed_answers words_are_words",
            "test_instructions.py": "read_otherwise rejected_anyway breaks_off_is_read",
            "test_captions.py": "examples_of_the_rules",
        },
    ),
    "replies of a server": (
        "asked again, or a counted reject at its dearest price; no caption is burnt",
        {
            "test_openai_backend.py": """
                a_success_that_is_none a_server_that_never_answers empty_answers
                usage_record spoilt_once odd_form drips without_end
                survives_a_bad_server 20_kills
                """,
        },
    ),
    "refusals of a server": (
        "what it does not take is left out, a refused caption is a reject, else one sentence",
        {
            "test_openai_backend.py": """
                refuses_in_its_own_words refusal_without_a_name word_in_a_refusal content_filter
                refusal_that_stays server_refuses_does_not_stop accepts_nothing
                """,
        },
    ),
    "moderation": (
        "nothing passes without a clear word",
        {
            "test_openai_backend.py": """
                without_a_clear_word falls_silent politely not_for_us moderation_skips
                """,
        },
    ),
    "results of batches": (
        "one counted reject a bad line; nothing is paid twice",
        {
            "test_openai_backend.py": """
                bad_line_in_the_results results_that_are results_that_stay
                a_note_that_is_not_ours refused_batch answers_nothing stopped_batch_job
                """,
        },
    ),
    "addresses, keys and passwords": (
        "refused at once with the cause; never printed",
        {
            "test_openai_backend.py": """
                an_address_that_is_none key_with_a_line_end hopeless_connection
                address_with_another_path password_in_the_address address_with_a_key
                echoes_the_key
                """,
        },
    ),
    "numbers and options": (
        "one sentence before any work",
        {
            "test_options.py": "out_of_its_range stage_1_refuses measuring_refuses",
            "test_editing.py": "bad_arguments would_paint_nothing absurd_sizes unknown_scheduler",
            "test_cli.py": "bad_input argparse_refuses a_shard_is_said",
            "test_evaluation.py": "what_evaluate_refuses",
            "test_models_build.py": "unknown_part",
        },
    ),
    "files of captions and triplets": (
        "read, or refused by file and line",
        {
            "test_triplets.py": """
                wrong_line_is_named captions_plain a_caption_that_is in_a_table
                look_like_a_table surrogate_pair no_text_is_refused whichever_editor
                checker_names checker_finds
                """,
            "test_instructions.py": "a_foreign_file after_a_cut too_long_is_given_up long_captions",
        },
    ),
    "pictures": (
        "seen as people see them, or one sentence",
        {
            "test_images.py": """
                opaque_picture transparent_is_white more_than_8_bits floats_from_0
                any_other_range no_numbers everybody_sees postscript bomb people_have
                no_whole_picture without_a_picture
                """,
            "test_editing.py": "every_mode_and_shape rotated no_image",
        },
    ),
    "masks": (
        "mean what their painter means",
        {
            "test_images.py": "mask_means a_grey_mask",
            "test_editing.py": "all_kinds cannot_be_meant",
        },
    ),
    "sets of pairs": (
        "read, or refused by file and row",
        {
            "test_pairs.py": """
                hubs_layout wrong_row other_tools_write something_else no_parquet without_rows
                broken_shard missing_column differ_only_behind full_disk metadata of_others
                one_seed broken_folder
                """,
            "test_training.py": "another_shape",
        },
    ),
    "folders, checkpoints and settings of others, or broken": (
        "left alone, or the one before is taken; the file is named",
        {
            "test_cli.py": """
                refuses_a_folder other_peoples foreign_folder site_of_its_own overwrites_only
                over_themselves
                """,
            "test_durable.py": "foreign tampered not_whole full_disk broken_file",
            "test_training.py": """
                broken_checkpoint broken_settings nan_loss does_not_predict_noise
                mended_pictures two_trainings before_its_first
                """,
            "test_points.py": "file_of_others other_models_are_refused",
            "test_pairs.py": "another_job_keeps_out other_weights",
            "test_instructions.py": "another_model_or_seed own_lessons",
        },
    ),
}


def collected(files: list[str]) -> Counter:
    """(file, test function) -> cases, those of `make soak` included."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not weights", *files]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=True)
    cases: Counter = Counter()
    for line in done.stdout.splitlines():
        place, separator, name = line.partition("::")
        if separator:
            cases[Path(place).name, name.partition("[")[0]] += 1
    return cases


def counts_by_kind() -> dict[str, int]:
    """Raises AssertionError if a name above is of no test, or of one that is counted already."""
    cases = collected(sorted({name for _, files in KINDS.values() for name in files}))
    seen: set[tuple[str, str]] = set()
    counts = {}
    wrong = []
    for kind, (_, files) in KINDS.items():
        counts[kind] = 0
        for file, parts in files.items():
            for part in parts.split():
                tests = {test for test in cases if test[0] == file and part in test[1]} - seen
                if not tests:
                    wrong.append(f"{file} {part}")
                seen |= tests
                counts[kind] += sum(cases[test] for test in tests)
    assert not wrong, f"of no test, or of one that is counted already: {', '.join(wrong)}"
    return counts


if __name__ == "__main__":
    counts = counts_by_kind()
    print("| Kind | Inputs | Result |\n|---|---:|---|")
    for kind, count in counts.items():
        print(f"| {kind} | {count} | {KINDS[kind][0]} |")
    print(f"| all | {sum(counts.values())} | |")
