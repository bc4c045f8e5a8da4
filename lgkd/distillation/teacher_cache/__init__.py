"""What a teacher says of every image, written down once: a training that reads it does not run the teacher."""
