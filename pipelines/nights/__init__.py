"""What happens while nobody looks: uploads that end, labels at once, retraining when it is worth
it, one message per event.
"""
