"""What can be said of answers: statistics, which models match, which setting is best."""
