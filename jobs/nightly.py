"""A night on the cluster that runs this job: ``ray-asd nightly``, with its options.

ray job submit --working-dir . -- python jobs/nightly.py s3://plant/recordings --bundle s3://plant/bundle --out s3://plant/scores --alarms-per-night 20

Scores what is new, evaluates where there are labels, and prints one JSON summary; exits with 4
where there are alarms. Safe to start twice: the second run waits for the first.
"""  # noqa: E501, a command is one line

import verb

if __name__ == "__main__":
    verb.run("nightly")
