"""The tests that take about a minute or more on a busy machine, and what each protects.

`make test` leaves them out, `make test-all` and continuous integration run them; `conftest.py` marks them.
A key is a file and a test. Of a test with parameters all are meant, or those whose id begins with what stands
behind the bracket.
"""

NOTEBOOK = "test_notebooks.py::test_notebook_runs_and_its_claims_and_solutions_hold"

SLOW = {
    "test_benchmark.py::test_kills_lose_and_repeat_nothing": (
        "a benchmark that is killed, wherever, ends with the rows of one that is not"
    ),
    "test_ray_executor.py::test_one_and_four_workers_and_a_killed_node_make_the_same_bytes": (
        "pairs painted on a Ray cluster do not depend on how many workers there are, nor on one that dies"
    ),
    # 03 and 04 stay in the default run: between them they paint, filter, train and edit
    **{
        f"{NOTEBOOK}[{number}": f"notebook {number} runs, its claims hold, its solutions are right"
        for number in ("00", "01_", "01b", "02", "05", "06", "07", "08", "90")
    },
    "test_notebooks.py::test_notebook_04_learns_as_much_as_it_claims": (
        "the claims of notebook 04 about learning, which need all of its steps"
    ),
    "test_editing.py::test_compiled_edits_are_the_same_edits": "`Editor.compile` changes no picture",
    "test_cli.py::test_the_workshop_runs_where_and_as_it_is_told[cpu-bfloat16": (
        "every command works in bfloat16 on a CPU, which many CPUs only emulate"
    ),
    "test_pairs.py::test_kills_within_a_shard_change_no_byte": (
        "a job that is killed in the middle of a shard ends with the same bytes"
    ),
    "test_openai_backend.py::test_a_served_model_answers_as_well_as_in_this_process": (
        "a real server (`transformers serve`) with our fine-tuned model writes triplets as good as without it"
    ),
    "test_sd15.py::test_one_step_of_each_stage_within_12_gigabytes": (
        "the profile sd15 fits the true architecture of Stable Diffusion 1.5, and a laptop's memory"
    ),
    "test_baselines.py::test_text2live_moves_the_picture_the_way_of_the_caption_and_can_be_repeated": (
        "the rival of figure 8 is a fair one: it optimises, and repeats to the bit"
    ),
    "test_training.py::test_killed_at_any_moment_and_run_again_gives_the_same_bits": (
        "a training that is killed, wherever, ends with the weights of one that is not"
    ),
    "test_training.py::test_two_processes_learn_what_one_learns": (
        "`accelerate launch` with two processes has the losses of one"
    ),
    "test_training.py::test_a_batch_in_parts_and_checkpointing_change_nothing_but_memory": (
        "--accumulate and --checkpointing are free of side effects"
    ),
    "test_instructions.py::test_ten_kills_lose_and_repeat_nothing": (
        "a stage 1 that is killed repeats no answer that was paid for, and loses none"
    ),
    "test_instructions.py::test_a_killed_finetuning_goes_on_bit_for_bit_and_two_do_not_collide": (
        "fine-tuning resumes to the bit, and two processes make one model between them"
    ),
    "test_removal.py::test_six_editors_of_which_five_lack_one_thing": (
        "the heart of the series: six editors differ in the one thing that each is named for"
    ),
    "test_pairs.py::test_ten_kills_change_no_byte": "a killed job of pairs ends with the same bytes",
    # these six share what they build
    "test_models_build.py::test_every_part_is_made_and_loads": (
        "every bundled model can be made again by `ip2p models build`, and is loaded by stock libraries"
    ),
    "test_models_build.py::test_mini_sds_card_tells_how_it_was_made": "cards tell the run that was",
    "test_models_build.py::test_mini_ip2ps_card_tells_how_it_was_made": "cards tell the run that was",
    "test_models_build.py::test_a_stopped_build_goes_on": "a build that is stopped resumes",
    "test_models_build.py::test_trainings_in_mixed_precision": "models can be built in bfloat16",
    "test_models_build.py::test_what_others_put_beside_a_model_stays": "a build takes away nobody's files",
    "test_autoencoder.py::test_a_killed_training_goes_on_to_the_same_weights": (
        "the training loop that all bundled models share resumes to the bit"
    ),
}
