"""What the field tests share. They use flows and the command line only, so that they also run with an older wheel."""
