"""What a run says about itself: metrics, speed, curves, other programs' logs."""
