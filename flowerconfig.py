"""Settings of `celery -A oops_celery flower` when it is started in this folder."""

# Keep as many reports as a person looks back on.
max_tasks = 10_000
# The task's name says less than its arguments: type, topic and reporter.
tasks_columns = "uuid,state,args,result,received,started,runtime,worker"
