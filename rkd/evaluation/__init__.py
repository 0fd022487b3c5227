"""Numbers about models, labels and judges: accuracy, win rates, intervals, tests, and the results that a job keeps."""
