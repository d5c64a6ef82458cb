"""Train on the cluster that runs this job: ``ray-asd train``, with its options.

ray job submit --working-dir . -- python jobs/train.py s3://plant/manifest.parquet --out s3://plant/upstream

The cluster's cores or GPUs are counted when it starts. The same line carries on from the last
checkpoint.
"""

import verb

if __name__ == "__main__":
    verb.run("train")
