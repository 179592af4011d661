"""Small street scenes painted by the program: the data set behind data/streets.yaml."""
