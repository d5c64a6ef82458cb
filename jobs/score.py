"""Score an archive on the cluster that runs this job: ``ray-asd score``, with its options.

ray job submit --working-dir . -- python jobs/score.py s3://plant/recordings --bundle s3://plant/bundle --out s3://plant/scores

The cluster's cores are counted when it starts. The same line carries on after an interruption,
and tomorrow scores only what is new.
"""  # noqa: E501, a command is one line

import verb

if __name__ == "__main__":
    verb.run("score")
