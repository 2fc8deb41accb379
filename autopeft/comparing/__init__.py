"""Methods side by side: the learning rate of each tuned with equal effort, several seeds, and what each costs."""
