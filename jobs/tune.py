"""Try detectors on the cluster that runs this job: ``ray-asd tune``, with its options.

ray job submit --working-dir . -- python jobs/tune.py s3://plant/manifest.parquet --upstream s3://plant/upstream --out s3://plant/tuned.yaml

The same line carries on after a kill.
"""  # noqa: E501, a command is one line

import verb

if __name__ == "__main__":
    verb.run("tune")
