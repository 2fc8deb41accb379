"""What is done with several searches, or with one after it: listed, shown again in MLflow, compared, registered."""
